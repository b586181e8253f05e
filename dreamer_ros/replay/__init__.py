"""Episodes as rosbags, and the store that samples training sequences from them."""
