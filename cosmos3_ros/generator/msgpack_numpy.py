"""MessagePack with numpy arrays, as openpi's policy servers speak it.

The subset that those servers use: maps, arrays, text, bytes, numbers, booleans, nothing. An ndarray is a map
with the bytes keys ``__ndarray__``, ``data`` (C order), ``dtype``, ``shape``; a numpy scalar one with
``__npgeneric__``, ``data``, ``dtype``. Sources: MessagePack specification; openpi-client's
``msgpack_numpy.py`` (facts sheet 2b.9, with the bytes that the tests compare).
"""

from collections.abc import Callable
import struct
from typing import Any

import numpy as np

_REFUSED_KINDS = 'VOc'  # void, object, complex: refused by the servers too
_MOST_DEPTH = 16


class WireError(ValueError):
    """Bytes or values that this protocol does not allow."""


def pack(value: Any) -> bytes:
    """Return ``value`` as MessagePack.

    :raises WireError: A type that the protocol has no form for.
    """
    out: list[bytes] = []
    _pack(value, out)
    return b''.join(out)


def _pack(value: Any, out: list[bytes]) -> None:
    if value is None or isinstance(value, bool):
        out.append({None: b'\xc0', False: b'\xc2', True: b'\xc3'}[value])
    elif isinstance(value, np.ndarray):
        _check_kind(value.dtype)
        _pack({b'__ndarray__': True, b'data': np.ascontiguousarray(value).tobytes(),
               b'dtype': value.dtype.str, b'shape': list(value.shape)}, out)
    elif isinstance(value, np.generic):
        _check_kind(value.dtype)
        _pack({b'__npgeneric__': True, b'data': value.item(), b'dtype': value.dtype.str}, out)
    elif isinstance(value, int):
        out.append(_integer(value))
    elif isinstance(value, float):
        out.append(b'\xcb' + struct.pack('>d', value))
    elif isinstance(value, str):
        encoded = value.encode()
        out.append(_head(len(encoded), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + encoded)
    elif isinstance(value, bytes):
        out.append(_head(len(value), None, 0, (0xC4, 0xC5, 0xC6)) + value)
    elif isinstance(value, list | tuple):
        out.append(_head(len(value), 0x90, 15, (None, 0xDC, 0xDD)))
        for item in value:
            _pack(item, out)
    elif isinstance(value, dict):
        out.append(_head(len(value), 0x80, 15, (None, 0xDE, 0xDF)))
        for key, item in value.items():
            _pack(key, out)
            _pack(item, out)
    else:
        raise WireError(f'message: a {type(value).__name__} arrived, it has no form on the wire')


def _check_kind(dtype: np.dtype[Any]) -> None:
    if dtype.kind in _REFUSED_KINDS:
        raise WireError(f'message: an array of {dtype} arrived, numbers and fixed texts are allowed')


def _head(length: int, short: int | None, most_short: int, codes: tuple[int | None, ...]) -> bytes:
    if short is not None and length <= most_short:
        return bytes([short | length])
    for code, form, limit in zip(codes, ('>B', '>H', '>I'), (0xFF, 0xFFFF, 0xFFFFFFFF), strict=True):
        if code is not None and length <= limit:
            return bytes([code]) + struct.pack(form, length)
    raise WireError(f'message: {length} entries or bytes arrived, 4294967295 is the most')


def _integer(value: int) -> bytes:
    if 0 <= value <= 0x7F:
        return bytes([value])
    if -32 <= value < 0:
        return bytes([0x100 + value])
    forms = ((0xCC, '>B'), (0xCD, '>H'), (0xCE, '>I'), (0xCF, '>Q')) if value >= 0 else (
        (0xD0, '>b'), (0xD1, '>h'), (0xD2, '>i'), (0xD3, '>q'))
    for code, form in forms:
        try:
            return bytes([code]) + struct.pack(form, value)
        except struct.error:
            continue
    raise WireError(f'message: {value} arrived, 64 bits are the most')


def unpack(data: bytes) -> Any:
    """Return the value that ``data`` holds; arrays are read-only views.

    :raises WireError: Cut short, trailing bytes, or a form outside of the subset.
    """
    reader = _Reader(data)
    try:
        value = reader.read(0)
    except (struct.error, UnicodeDecodeError, TypeError, ValueError) as error:
        raise WireError(f'message: {len(data)} bytes are no valid message: {error}') from error
    if reader.place != len(data):
        raise WireError(f'message: {len(data) - reader.place} bytes follow its end')
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def take(self, count: int) -> bytes:
        if self.place + count > len(self._data):
            raise WireError(f'message: it ends {self.place + count - len(self._data)} bytes early')
        part = self._data[self.place:self.place + count]
        self.place += count
        return part

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def read(self, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise WireError(f'message: nested deeper than {_MOST_DEPTH}')
        code = self.take(1)[0]
        if code <= 0x7F:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code <= 0x8F:
            return self._map(code & 0x0F, depth)
        if code <= 0x9F:
            return [self.read(depth + 1) for _ in range(code & 0x0F)]
        if code <= 0xBF:
            return self.take(code & 0x1F).decode()
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self.number(_NUMBERS[code])
        if code in _SIZED:
            kind, form = _SIZED[code]
            return kind(self, self.number(form), depth)
        raise WireError(f'message: code 0x{code:02x} is not used by this protocol')

    def _list(self, count: int, depth: int) -> list[Any]:
        return [self.read(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> Any:
        items = {}
        for _ in range(count):
            key = self.read(depth + 1)
            items[key] = self.read(depth + 1)
        if b'__ndarray__' in items:
            dtype = np.dtype(items[b'dtype'])
            _check_kind(dtype)
            return np.frombuffer(items[b'data'], dtype=dtype).reshape(items[b'shape'])
        if b'__npgeneric__' in items:
            dtype = np.dtype(items[b'dtype'])
            _check_kind(dtype)
            return dtype.type(items[b'data'])
        return items


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {0xCA: '>f', 0xCB: '>d', 0xCC: '>B', 0xCD: '>H', 0xCE: '>I', 0xCF: '>Q', 0xD0: '>b', 0xD1: '>h',
            0xD2: '>i', 0xD3: '>q'}
_Kind = Callable[[_Reader, int, int], Any]
_TEXT: _Kind = lambda reader, size, _: reader.take(size).decode()  # noqa: E731
_BYTES: _Kind = lambda reader, size, _: reader.take(size)  # noqa: E731
_SIZED: dict[int, tuple[_Kind, str]] = {
    0xC4: (_BYTES, '>B'), 0xC5: (_BYTES, '>H'), 0xC6: (_BYTES, '>I'),
    0xD9: (_TEXT, '>B'), 0xDA: (_TEXT, '>H'), 0xDB: (_TEXT, '>I'),
    0xDC: (_Reader._list, '>H'), 0xDD: (_Reader._list, '>I'), 0xDE: (_Reader._map, '>H'),
    0xDF: (_Reader._map, '>I')}
