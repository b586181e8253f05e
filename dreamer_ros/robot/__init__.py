"""What a robot is: its contract, how it senses, how it is commanded, and what keeps it safe. No rclpy."""
