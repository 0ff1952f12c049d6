"""A large GGUF becomes several, named and keyed as llama.cpp's gguf-split does it: it opens all by the first one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ft_pipeline.disk_space import require_space
from ft_pipeline.errors import ConversionError, DiskSpaceError

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

_VIRTUAL = "GGUF."  # the reader's own fields, of the header
_ARCHITECTURE = "general.architecture"


def split_gguf(path: Path, limit_bytes: int) -> list[Path]:
    """Split a GGUF that is larger than a limit into `<stem>-00001-of-0000N.gguf` and so on, beside it.

    Tensors are copied from the mapped file one after the other; it is removed when all parts are whole.

    Args:
        path: The GGUF.
        limit_bytes: The most that a part has.

    Returns:
        The parts in their order; only `path` if it is within the limit.

    Raises:
        ConversionError: the limit is smaller than the largest tensor, or than the metadata.
        DiskSpaceError: the parts do not fit beside the file.
    """
    if path.stat().st_size <= limit_bytes:
        return [path]
    from gguf import GGUFReader

    reader = GGUFReader(path)
    room = _room_for_tensors(reader, path, limit_bytes)
    require_space(path.parent, path.stat().st_size, f"splitting {path.name}")
    writer = _plan_parts(reader, room)
    parts: list[Path] = writer.format_shard_names(path)
    try:
        _write(writer, path, parts)
    except BaseException:
        for file in writer.fout or []:
            with suppress(OSError):  # what it still holds does not get through either
                file.close()
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    path.unlink()
    return parts


def _room_for_tensors(reader: GGUFReader, path: Path, limit_bytes: int) -> int:
    # Every part is counted with all of the metadata, which the first one has, and each tensor's padding.
    room = limit_bytes - int(reader.data_offset) - len(reader.tensors) * int(reader.alignment)
    largest = max(reader.tensors, key=lambda tensor: int(tensor.n_bytes))
    if room < largest.n_bytes:
        raise ConversionError(
            f"a part of a split GGUF must hold its largest tensor and the metadata; {path.name} has {largest.name} "
            f"with {int(largest.n_bytes):,} bytes, the limit leaves {max(room, 0):,} of {limit_bytes:,}. Raise "
            "quantization.split_gib."
        )
    return room


def _plan_parts(reader: GGUFReader, room: int) -> GGUFWriter:
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(None, reader.fields[_ARCHITECTURE].contents(), split_max_size=room)
    writer.data_alignment = reader.alignment
    for field in reader.fields.values():
        is_empty = field.types[0] == GGUFValueType.ARRAY and not field.data
        if field.name == _ARCHITECTURE or field.name.startswith(_VIRTUAL) or is_empty:
            continue
        item_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], item_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return writer


def _write(writer: GGUFWriter, path: Path, parts: list[Path]) -> None:
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        ends = [file.tell() for file in writer.fout or []]
        writer.close()
    except OSError as err:
        raise DiskSpaceError(
            f"the parts of {path.name} must fit the disk of {path.parent}, which does not take them: {err}. Free "
            f"{path.stat().st_size:,} bytes."
        ) from err
    # numpy does not say when its last bytes did not get through.
    short = [part.name for part, end in zip(parts, ends, strict=True) if part.stat().st_size != end]
    if short:
        raise DiskSpaceError(f"the parts of {path.name} must be whole; the disk cut off {', '.join(short)}. Free some.")
