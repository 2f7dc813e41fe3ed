"""Tensors on their way to an accelerator, without waiting for what is under way there."""

from typing import Any


def send(tensor: Any, device: Any) -> Any:
    """Return a host tensor on a device.

    A plain copy to CUDA waits until everything before it is done, and with it the host, which should be
    preparing what comes next. From pinned memory it is one more entry in the stream.

    :param device: ``torch.device``.
    """
    if device.type != 'cuda':
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
