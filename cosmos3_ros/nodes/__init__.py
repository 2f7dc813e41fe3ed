"""The ROS 2 nodes: the only place, with the command line, that imports rclpy."""
