"""A ROS 2 control stack that learns to control a robot from its camera by dreaming."""
