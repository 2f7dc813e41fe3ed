"""ActionChunk and joint state to JointCommand, never outside the limits."""
