"""Draw a report on a camera image."""

import numpy as np
from numpy.typing import NDArray

from ..contracts import ContractError, Plausibility, SceneReport, TaskState
from ..resources import require

# Okabe and Ito's palette: distinguishable with colour-blind eyes.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_STATE_COLOURS = {
    TaskState.UNKNOWN: (160, 160, 160), TaskState.IN_PROGRESS: (86, 180, 233),
    TaskState.DONE: (0, 158, 115), TaskState.FAILED: (213, 94, 0),
}


def annotate(image: NDArray[np.uint8], camera: str, report: SceneReport) -> NDArray[np.uint8]:
    """Return a copy of ``image`` with the boxes of ``camera``, next action and task state drawn in.

    Boxes are drawn from their normalised form, so an image of any size will do.

    :param image: uint8 RGB, shape (H, W, 3).
    :raises ContractError: Not such an image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ContractError(
            f'image: {image.dtype} of shape {image.shape} arrived, uint8 (height, width, 3) is allowed')
    cv2 = require('cv2', 'record')
    canvas = np.array(image, order='C')
    height, width = canvas.shape[:2]
    scale = max(0.35, min(height, width) / 900.0)
    line_px = max(12, round(34 * scale))

    def write(text: str, x: int, baseline: int, colour: tuple[int, int, int]) -> None:
        # OpenCV's fonts hold ASCII only; anything else would come out as question marks twice over.
        text = text.encode('ascii', 'replace').decode('ascii')
        (wide, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        cv2.rectangle(canvas, (x, baseline - tall - below), (x + wide, baseline + below), (0, 0, 0), -1)
        cv2.putText(canvas, text, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)

    for index, found in enumerate(entry for entry in report.objects if entry.camera == camera):
        x1, y1, x2, y2 = found.box_normalized
        colour = _COLOURS[index % len(_COLOURS)]
        corner = (round(x1 * (width - 1)), round(y1 * (height - 1)))
        cv2.rectangle(canvas, corner, (round(x2 * (width - 1)), round(y2 * (height - 1))), colour,
                      max(1, round(2 * scale)))
        write(found.label, corner[0], max(line_px, corner[1] - 3), colour)

    lines = [(f'task: {report.task_state.name.lower()}', _STATE_COLOURS[report.task_state])]
    if report.next_action:
        lines.append((f'next: {report.next_action}', (255, 255, 255)))
    if report.plausibility is Plausibility.IMPOSSIBLE:
        lines.append(('impossible', (213, 94, 0)))
    lines.extend((f'hazard: {hazard}', (213, 94, 0)) for hazard in report.hazards[:2])
    if not report.parsed:
        lines.append((f'not parsed: {report.reason}', (213, 94, 0)))
    if not report.identity.trained:
        lines.append(('untrained weights: the content means nothing', (160, 160, 160)))
    longest = max(8, int(width / (18 * scale)))
    for row, (text, colour) in enumerate(reversed(lines)):
        write(text if len(text) <= longest else text[:longest - 3] + '...', 2,
              height - 5 - row * line_px, colour)
    return canvas
