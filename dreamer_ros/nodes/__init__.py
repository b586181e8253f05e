"""ROS 2 nodes, a file each, and what they share; rclpy is imported here and nowhere else."""
