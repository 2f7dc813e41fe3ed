"""Forms with a file, as browsers and curl send them: ``multipart/form-data`` (RFC 7578)."""

from collections.abc import Mapping
from uuid import uuid4

from cosmos3_ros.remote.http_exchange import Body


def encode_form(
    fields: Mapping[str, str], file_field: str, file_name: str, content: bytes, kind: str,
) -> Body:
    """Return a form with text fields and one file.

    :param fields: Names and values; names are of this package and need no escaping.
    :param kind: Media type of the file, e.g. ``image/png``.
    """
    # 122 random bits: no content holds them.
    boundary = uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()]
    parts.append((
        f'--{boundary}\r\nContent-Disposition: form-data; name="{file_field}"; filename="{file_name}"\r\n'
        f'Content-Type: {kind}\r\n\r\n').encode())
    return Body(
        b''.join([*parts, content, f'\r\n--{boundary}--\r\n'.encode()]),
        f'multipart/form-data; boundary={boundary}')
