"""Reads what TensorBoard would."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path


def read_events(folder: Path) -> Iterator[tuple[int, str, float]]:
    """Step, tag and value of each scalar: TFRecord framing (length, its CRC, data, their CRC), protobuf within."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.glob("events.out.tfevents.*")
    content, start = file.read_bytes(), 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        event = Event.FromString(content[start + 12 : start + 12 + length])
        for value in event.summary.value:
            yield event.step, value.tag, value.simple_value
        start += 12 + length + 4
