"""Chains as their makers publish them, written a second time and in another form than the package's."""

import numpy as np

# Franka Control Interface documentation, "Denavit-Hartenberg parameters" (Craig): a, alpha, d per joint.
FRANKA_MODIFIED_DH = (
    (0.0, 0.0, 0.333), (0.0, -np.pi / 2, 0.0), (0.0, np.pi / 2, 0.316), (0.0825, np.pi / 2, 0.0),
    (-0.0825, -np.pi / 2, 0.384), (0.0, np.pi / 2, 0.0), (0.088, np.pi / 2, 0.0))
# Universal Robots, "DH parameters for calculations of kinematics and dynamics", UR5e: a, alpha, d per joint.
UR5E_STANDARD_DH = (
    (0.0, np.pi / 2, 0.1625), (-0.425, 0.0, 0.0), (-0.3922, 0.0, 0.0),
    (0.0, np.pi / 2, 0.1333), (0.0, -np.pi / 2, 0.0997), (0.0, 0.0, 0.0996))
FRANKA_NAMES = ('panda', 'fr3')
ROBOTS = ('panda', 'fr3', 'ur5e')


def _rot_x(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])


def _rot_z(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def _shift(x, z):
    T = np.eye(4)
    T[0, 3], T[2, 3] = x, z
    return T


def last_link_by_dh(name, q):
    """4x4 pose of the last link in the base frame of the URDF."""
    if name in FRANKA_NAMES:
        T = np.eye(4)
        for (a, alpha, d), angle in zip(FRANKA_MODIFIED_DH, q, strict=True):
            T = T @ _rot_x(alpha) @ _shift(a, 0.0) @ _rot_z(angle) @ _shift(0.0, d)
        return T
    # The controller's frame "Base" is base_link turned by pi about z.
    T = _rot_z(np.pi)
    for (a, alpha, d), angle in zip(UR5E_STANDARD_DH, q, strict=True):
        T = T @ _rot_z(angle) @ _shift(0.0, d) @ _shift(a, 0.0) @ _rot_x(alpha)
    return T


# Body positions and quaternions (w, x, y, z; not normalised), the form of MuJoCo Menagerie's models.
FRANKA_BODIES = (
    ((0, 0, 0.333), (1, 0, 0, 0)), ((0, 0, 0), (1, -1, 0, 0)), ((0, -0.316, 0), (1, 1, 0, 0)),
    ((0.0825, 0, 0), (1, 1, 0, 0)), ((-0.0825, 0.384, 0), (1, -1, 0, 0)), ((0, 0, 0), (1, 1, 0, 0)),
    ((0.088, 0, 0), (1, 1, 0, 0)))
UR5E_BODIES = (
    ((0, 0, 0.1625), (0, 0, 0, 1)), ((0, 0, 0), (1, 1, 0, 0)), ((-0.425, 0, 0), (1, 0, 0, 0)),
    ((-0.3922, 0, 0.1333), (1, 0, 0, 0)), ((0, -0.0997, 0), (1, 1, 0, 0)), ((0, 0.0996, 0), (1, -1, 0, 0)))


def build_mujoco_model(mujoco, name, bodies_of_link=None, gravity=(0.0, 0.0, -9.81)):
    """A MuJoCo model of the bare chain; ``bodies_of_link`` maps link to YAML entries with inertia."""
    spec = mujoco.MjSpec()
    spec.option.gravity = gravity
    spec.compiler.balanceinertia = False
    spec.compiler.boundinertia = 0
    spec.compiler.boundmass = 0
    parent = spec.worldbody
    for i, (pos, quat) in enumerate(FRANKA_BODIES if name in FRANKA_NAMES else UR5E_BODIES, start=1):
        quat = np.array(quat, dtype=float)
        parent = parent.add_body(name=f'link{i}', pos=pos, quat=quat / np.linalg.norm(quat))
        parent.add_joint(name=f'joint{i}', type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1])
        entries = (bodies_of_link or {}).get(i)
        if entries is None:
            parent.mass, parent.inertia, parent.explicitinertial = 1.0, [1e-3] * 3, True
            continue
        for k, entry in enumerate(entries):
            body = parent if k == 0 else parent.add_body(name=f'link{i}_{k}')
            body.mass, body.ipos, body.fullinertia = entry['mass_kg'], entry['com_m'], entry['inertia_kg_m2']
            body.explicitinertial = True
    return spec.compile()
