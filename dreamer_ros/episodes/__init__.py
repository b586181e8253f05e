"""Episodes: read from bags, assembled from messages, written as bags. No rclpy."""
