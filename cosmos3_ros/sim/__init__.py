"""The simulated robot: physics, pictures, tasks and a scripted expert. Needs the extra ``sim``."""
