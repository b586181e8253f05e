"""ROS messages to numpy and back, and the table of topics; works without rclpy."""
