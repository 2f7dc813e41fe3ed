"""A film of a recording: the wrist camera large, the exterior ones beside it, and what was going on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..resources import require
from .bag import Bag, BagError, decode_image, open_bag

Frame = NDArray[np.uint8]

MAIN, SIDE = 'wrist', ('exterior_1', 'exterior_2')
MAIN_SIZE, SIDE_SIZE = (854, 480), (426, 240)
CAPTION_HEIGHT = 120
SIZE = (MAIN_SIZE[0] + SIDE_SIZE[0], MAIN_SIZE[1] + CAPTION_HEIGHT)
BACKGROUND, TEXT, DIM = (18, 20, 24), (240, 240, 240), (150, 155, 165)
MODE_NAMES = ('UNCONFIGURED', 'INACTIVE', 'SHADOW', 'RUNNING', 'STOPPING', 'STOPPED')
MODE_COLOURS = {'RUNNING': (92, 200, 120), 'SHADOW': (110, 180, 240), 'STOPPING': (240, 120, 90),
                'STOPPED': (240, 120, 90)}
TOPICS = ('/controller_state', '/scene', '/simulation_state', '/action_chunk', '/instruction')


@dataclass(slots=True)
class _Now:
    """The newest of everything, while the recording is read."""

    images: dict[str, Frame] = field(default_factory=dict)
    mode: str = ''
    stop: str = ''
    caption: str = ''
    trained: bool = True
    instruction: str = ''
    success: bool = False
    policy: str = ''
    chunk_age_s: float = float('nan')


def write_video(
    bag_path: Path, output: Path, *, window_ns: tuple[int, int] | None = None, fps: int = 15,
) -> int:
    """Write an H.264 MP4 of the cameras of a recording and return the number of frames.

    One frame per image of the wrist camera (or of the first camera there is), at its own time.

    :param window_ns: Only images stamped within; None takes all.
    :raises BagError: The bag has no images of the known cameras, or none in the window.
    """
    av = require('av', 'record')
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_bag(bag_path) as bag, av.open(str(output), 'w') as container:
        stream = container.add_stream('libx264', rate=fps)
        stream.width, stream.height, stream.pix_fmt = *SIZE, 'yuv420p'
        stream.options = {'crf': '20', 'preset': 'veryfast'}
        stream.time_base = Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        first_ns, count, last_ms = -1, 0, -1
        for stamp_ns, now in _walk(bag, window_ns):
            first_ns = stamp_ns if first_ns < 0 else first_ns
            frame = av.VideoFrame.from_ndarray(_compose(now, (stamp_ns - first_ns) * 1e-9), format='rgb24')
            frame.time_base = Fraction(1, 1000)
            frame.pts = last_ms = max(last_ms + 1, round((stamp_ns - first_ns) * 1e-6))
            container.mux(stream.encode(frame))
            count += 1
        if count == 0:
            raise BagError(
                f'{bag_path}: no image of the cameras in the window; topics: {", ".join(bag.topics)}')
        container.mux(stream.encode())
    return count


def _walk(bag: Bag, window_ns: tuple[int, int] | None) -> Iterator[tuple[int, _Now]]:
    """Yield the stamp and everything newest at each image of the leading camera."""
    topics = _image_topics(bag)
    if not topics:
        raise BagError(
            f'no topic of {MAIN}, {", ".join(SIDE)} is in the bag; it has: {", ".join(bag.topics)}')
    leading = MAIN if MAIN in topics.values() else next(iter(topics.values()))
    now = _Now()
    for topic, _, message in bag.messages(*topics, *(t for t in TOPICS if t in bag.topics)):
        if topic not in topics:
            _update(now, topic, message)
            continue
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if window_ns is not None and not window_ns[0] <= stamp_ns <= window_ns[1]:
            continue
        camera = topics[topic]
        now.images[camera] = decode_image(message)
        if camera == leading:
            yield stamp_ns, now


def _image_topics(bag: Bag) -> dict[str, str]:
    """Return topic to camera, the compressed topic where there is one: it is cheaper to read."""
    found: dict[str, str] = {}
    for camera in (MAIN, *SIDE):
        for name in (f'/{camera}/image_raw/compressed', f'/{camera}/image_raw'):
            if bag.topics.get(name, ('', 0))[1]:
                found[name] = camera
                break
    return found


def _update(now: _Now, topic: str, message: Any) -> None:
    if topic == '/controller_state':
        now.mode = MODE_NAMES[message.mode] if message.mode < len(MODE_NAMES) else str(message.mode)
        now.stop = message.stop_detail if message.stop_reason else ''
        now.chunk_age_s = message.chunk_age_s
    elif topic == '/scene':
        now.caption, now.trained = message.caption or message.reason, bool(message.trained)
    elif topic == '/simulation_state':
        now.instruction, now.success = message.instruction, bool(message.success)
    elif topic == '/action_chunk':
        now.policy = message.policy
        now.instruction = message.instruction or now.instruction
    elif topic == '/instruction' and message.data:
        now.instruction = message.data


def _compose(now: _Now, time_s: float) -> Frame:
    """Return one frame of the film, uint8 RGB."""
    image = require('PIL.Image', 'record')
    draw_module = require('PIL.ImageDraw', 'record')
    canvas = image.new('RGB', SIZE, BACKGROUND)
    draw = draw_module.Draw(canvas)
    places = [(MAIN, (0, 0), MAIN_SIZE)]
    places += [(camera, (MAIN_SIZE[0], i * SIDE_SIZE[1]), SIDE_SIZE) for i, camera in enumerate(SIDE)]
    for camera, corner, size in places:
        pixels = now.images.get(camera)
        if pixels is None:
            draw.text((corner[0] + size[0] / 2, corner[1] + size[1] / 2), f'no image of {camera}',
                      font=_font(18), fill=DIM, anchor='mm')
        else:
            canvas.paste(image.fromarray(pixels).resize(size, image.Resampling.BILINEAR), corner)
            _label(draw, corner, camera)
    _caption(draw, now, time_s)
    return np.asarray(canvas)


def _label(draw: Any, corner: tuple[int, int], text: str) -> None:
    at = (corner[0] + 10, corner[1] + 8)
    box = draw.textbbox(at, text, font=_font(15))
    draw.rectangle((box[0] - 5, box[1] - 3, box[2] + 5, box[3] + 4), fill=BACKGROUND)
    draw.text(at, text, font=_font(15), fill=TEXT)


def _caption(draw: Any, now: _Now, time_s: float) -> None:
    top, width = MAIN_SIZE[1], SIZE[0]
    draw.text((18, top + 14), now.instruction or 'no instruction', font=_font(26), fill=TEXT)
    draw.text((width - 18, top + 14), f'{time_s:5.1f} s', font=_font(26), fill=TEXT, anchor='ra')
    colour = MODE_COLOURS.get(now.mode, DIM)
    draw.ellipse((18, top + 58, 32, top + 72), fill=colour)
    policy = f'   policy {now.policy}' if now.policy else ''
    age = f'   chunk {now.chunk_age_s:.2f} s old' if np.isfinite(now.chunk_age_s) else ''
    draw.text((42, top + 54), f'{now.mode or "no controller"}{policy}{age}', font=_font(18), fill=colour)
    if now.success:
        draw.text(
            (width - 18, top + 54), 'success', font=_font(18), fill=MODE_COLOURS['RUNNING'], anchor='ra')
    scene = now.stop or (f'scene: {now.caption}' if now.caption else '')
    if now.caption and not now.trained and not now.stop:
        scene += '  (untrained model)'
    draw.text((18, top + 86), _shorten(scene, 120), font=_font(16), fill=DIM)


def _shorten(text: str, length: int) -> str:
    line = ' '.join(text.split())
    return line if len(line) <= length else line[:length - 1] + '…'


_FONTS: dict[int, Any] = {}


def _font(size: int) -> Any:
    if size not in _FONTS:
        _FONTS[size] = require('PIL.ImageFont', 'record').load_default(size)
    return _FONTS[size]
