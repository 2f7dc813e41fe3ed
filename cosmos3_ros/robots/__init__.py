"""Robots as data: limits, kinematics, collision capsules, camera slots."""
