"""Archives, and folders that archives were unpacked into, as lists of members that can be read. Nothing is unpacked.

What is downloaded is not trusted: an archive with a member that would lie outside of it, is a link or a device, or
swells beyond reason is refused as a whole, with the member named. A member's size is declared in the archive, and no
more than that is ever decompressed.

A compressed tar, and an archive inside another one, cannot be read from the middle; its decompressed form is kept in a
spool folder while it is needed.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from maft.errors import UserError
from reason.files import replacing

MEMBER_LIMIT = 2 << 30
"""Largest member that is read into memory, in bytes; the largest annotation files have about 0.6 GiB."""
SPOOL_LIMIT = 64 << 30
"""Largest decompressed form of a compressed tar or of an archive inside an archive, in bytes."""
BOMB_RATIO, BOMB_SIZE = 200, 4 << 20
"""A member that swells more than this many times, to more than this many bytes, is a bomb. Annotation text, the best
compressible thing in any release, swells about tenfold."""

ARCHIVE_NAME = re.compile(r"\.(zip|tar|tgz|tar\.gz)$", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"\w[\w-]+[\w./-]*[\w-]", re.ASCII)
_AGAIN = "download it again (it may be cut off)"
_CHUNK = 1 << 20
_LOCAL_HEADER = 30

Coding = Literal["file", "plain", "deflate"]


@dataclass(frozen=True, slots=True)  # a release may have a million
class Member:
    """A file in an archive or folder, and how to get at its content without looking the archive through again.

    Attributes:
        container: the archive, or for coding "file" the file itself.
        name: path in the archive, forward slashes.
        size: of the content, bytes.
        coding: "file": a file on disk; "plain": `size` bytes in the archive; "deflate": compressed.
        offset: of the data in the archive; for zip members of the local header before it.
        stored: bytes that it takes in the archive.
        crc: CRC-32 of the content, where the archive declares one (zip).
    """

    container: str
    name: str
    size: int
    coding: Coding = "file"
    offset: int = 0
    stored: int = 0
    crc: int | None = None

    def __str__(self) -> str:
        return self.container if self.coding == "file" else f"{self.container}: {self.name}"

    def read(self, limit: int = MEMBER_LIMIT) -> bytes:
        """The content.

        Args:
            limit: most bytes that are accepted.

        Raises:
            UserError: larger than `limit`, cut off, or damaged.
        """
        if self.size > limit:
            raise UserError(f"{self}: {self.size} bytes, more than the {limit} that are read at once; {_AGAIN}")
        content = b"".join(self.chunks())
        if self.crc is not None and zlib.crc32(content) != self.crc:
            raise UserError(f"{self}: damaged (its check sum is wrong); download the archive again")
        return content

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces; the check sum is not looked at.

        Raises:
            UserError: as `read`.
        """
        try:
            with open(self.container, "rb") as file:
                yield from self._chunks(file)
        except OSError as error:
            raise UserError(f"{self}: cannot be read ({error.strerror or error})") from error

    def _chunks(self, file: BinaryIO) -> Iterator[bytes]:
        file.seek(self.offset)
        if self.crc is not None:  # a zip: the data follows a second header, whose lengths differ from the directory's
            header = file.read(_LOCAL_HEADER)
            if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                raise UserError(f"{self}: no such data in the archive; {_AGAIN}")
            file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
        if self.coding == "deflate":
            yield from self._inflated(file)
            return
        left = self.size
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise UserError(f"{self}: ends {left} bytes early; {_AGAIN}")
            left -= len(piece)
            yield piece

    def _inflated(self, file: BinaryIO) -> Iterator[bytes]:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        unread, made = self.stored, 0
        pending = b""
        while not decompressor.eof:
            if not pending:
                pending = file.read(min(unread, _CHUNK))
                unread -= len(pending)
            try:
                # One byte more than is due tells a member that holds more than it declares.
                piece = decompressor.decompress(pending, min(_CHUNK, self.size - made + 1))
            except zlib.error as error:
                raise UserError(f"{self}: damaged ({error}); {_AGAIN}") from error
            if not piece and not pending and not decompressor.eof:
                raise UserError(f"{self}: ends after {made} of {self.size} bytes; {_AGAIN}")
            pending = decompressor.unconsumed_tail
            made += len(piece)
            if made > self.size:
                raise UserError(f"{self}: a bomb: it holds more than the {self.size} bytes that it declares")
            yield piece
        if made != self.size:
            raise UserError(f"{self}: holds {made} bytes instead of the {self.size} that it declares; {_AGAIN}")


class Source:
    """An archive, or a folder that one was unpacked into: its regular files. Picklable while it is small.

    Attributes:
        path: the archive or folder.
        members: in the archive's order; a folder's sorted by name.
    """

    def __init__(self, path: Path, members: Sequence[Member]) -> None:
        self.path = path
        self.members = tuple(members)
        self._by_name: dict[str, Member] | None = None

    def names(self) -> list[str]:
        """Names of the members, all of them harmless."""
        return [member.name for member in self.members]

    def member(self, name: str) -> Member:
        """The member of that name; KeyError if there is none."""
        if self._by_name is None:
            self._by_name = {member.name: member for member in self.members}
        return self._by_name[name]

    def read(self, name: str) -> bytes:
        """The content of the member of that name; see `Member.read`."""
        return self.member(name).read()


def open_source(path: Path, spool: Path) -> Source:
    """List an archive or a folder.

    Args:
        path: zip, tar or gzipped tar, recognised by content; or a folder; or an annotation file that is published as it
            is (.json, .txt), which counts as a folder with nothing else in it.
        spool: folder for the decompressed form of a gzipped tar; made if needed, removed by its owner.

    Raises:
        UserError: none of these, cut off, or with a hostile member, which is named.
    """
    try:
        if path.is_dir():
            return Source(path, list(_folder_members(path)))
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give an archive or its unpacked folder") from error
    if head[:2] == b"\x1f\x8b":
        return Source(path, list(_tar_members(_spooled_gzip(path, spool), shown=path)))
    if head[:2] == b"PK":
        return Source(path, _zip_members(path))
    if tarfile.is_tarfile(path):
        return Source(path, list(_tar_members(path, shown=path)))
    if path.suffix.lower() in (".json", ".txt") and head.lstrip()[:1] != b"<":
        return Source(path, [Member(str(path), checked_name(path.name, path), path.stat().st_size)])
    kind = "a web page, not an archive" if head.lstrip()[:1] == b"<" else "no zip, tar or gzipped tar archive"
    raise UserError(f"{path}: {kind}; download it again, or give the unpacked folder")


def open_nested(member: Member, spool: Path) -> Source:
    """List an archive that is a member of another one; see `open_source`."""
    if member.coding == "file":
        return open_source(Path(member.container), spool)
    target = spool / f"{_fingerprint(Path(member.container), member.name)}-{Path(member.name).name}"
    _spool(member.chunks(), target, f"{member}", member.stored)
    return open_source(target, spool)


def checked_name(name: str, where: object) -> str:
    """`name` with forward slashes and without "./".

    Raises:
        UserError: absolute, above the archive, or unprintable.
    """
    if _PLAIN_NAME.fullmatch(name) and "/." not in name and "//" not in name:  # nearly all of the many
        return name
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
    problem = None
    if name[:1] in ("/", "\\") or re.match(r"[A-Za-z]:", name):
        problem = "an absolute path"
    elif ".." in parts:
        problem = "a path that leads out of the archive"
    elif not parts or any(ord(character) < 32 for character in name):
        problem = "an unusable name"
    if problem:
        raise UserError(f"{where}: member {name!r} has {problem}; refused, this is not an official archive")
    return "/".join(parts)


def _folder_members(root: Path) -> Iterator[Member]:
    inside = os.path.realpath(root)
    for folder, folders, files in os.walk(root):
        # In a fixed order, and without what is hidden: left by other systems, or being written.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted((*files, *(entry for entry in folders if os.path.islink(os.path.join(folder, entry))))):
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            relative = os.path.relpath(path, root).replace(os.sep, "/")
            information = os.lstat(path)
            if stat.S_ISLNK(information.st_mode):
                target = os.path.realpath(path)
                if os.path.commonpath((inside, target)) != inside:
                    raise UserError(
                        f"{root}: member {relative!r} is a link out of the folder, to {target}; refused. If you "
                        "made it yourself, give the folder that it leads to"
                    )
                if not os.path.isfile(target):
                    continue
                information = os.stat(target)
            if not stat.S_ISREG(information.st_mode):
                raise UserError(f"{root}: member {relative!r} is no regular file; refused")
            yield Member(path, checked_name(relative, root), information.st_size)


def _tar_members(path: Path, shown: Path) -> Iterator[Member]:
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                name = checked_name(entry.name, shown) if entry.name.strip("./") else ""
                if entry.isdir():
                    continue
                if not entry.isreg() or entry.issparse():
                    kind = "a link" if entry.issym() or entry.islnk() else "no regular file"
                    raise UserError(f"{shown}: member {entry.name!r} is {kind}; refused, this is no official archive")
                yield Member(str(path), name, entry.size, "plain", entry.offset_data, entry.size)
            end = archive.offset
        with path.open("rb") as file:
            file.seek(end)
            # Python's reader takes a damaged header for the end; the true end is a block of zeros.
            if file.read(512) != bytes(512):
                raise UserError(f"{shown}: cut off or damaged after {end} bytes; download it again")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{shown}: not readable as a tar archive ({error}); {_AGAIN}") from error


def _zip_members(path: Path) -> list[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: not readable as a zip archive ({error}); {_AGAIN}") from error
    members, end, last = [], 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = checked_name(entry.filename, path)
        if entry.header_offset < end:
            raise UserError(f"{path}: members {last!r} and {entry.filename!r} overlap: a bomb; refused")
        end, last = entry.header_offset + _LOCAL_HEADER + entry.compress_size, entry.filename
        mode = entry.external_attr >> 16
        if stat.S_ISLNK(mode):
            raise UserError(f"{path}: member {entry.filename!r} is a link; refused, this is no official archive")
        if entry.is_dir():
            continue
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: member {entry.filename!r} is encrypted or packed in an unknown way; unpack it")
        if _is_bomb(entry.file_size, entry.compress_size):
            swells = f"{entry.compress_size} bytes would become {entry.file_size}"
            raise UserError(f"{path}: member {entry.filename!r} is a bomb: {swells}; refused")
        coding: Coding = "deflate" if entry.compress_type == zipfile.ZIP_DEFLATED else "plain"
        place = (entry.header_offset, entry.compress_size, entry.CRC)
        members.append(Member(str(path), name, entry.file_size, coding, *place))
    return members


def _is_bomb(size: int, stored: int) -> bool:
    return size > BOMB_SIZE and size > BOMB_RATIO * stored


def _fingerprint(path: Path, name: str = "") -> str:
    information = path.stat()
    text = f"{path.resolve()}\n{information.st_size}\n{information.st_mtime_ns}\n{name}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _spooled_gzip(path: Path, spool: Path) -> Path:
    target = spool / f"{_fingerprint(path)}.tar"

    def chunks() -> Iterator[bytes]:
        try:
            with gzip.open(path) as file:
                while piece := file.read(_CHUNK):
                    yield piece
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"{path}: not readable as a gzipped archive ({error}); {_AGAIN}") from error

    _spool(chunks(), target, str(path), path.stat().st_size)
    return target


def _spool(chunks: Iterator[bytes], target: Path, where: str, stored: int) -> None:
    """Write `chunks` to `target` unless that is there from an earlier run."""
    if target.is_file():
        return
    made = 0
    with replacing(target) as file:
        for piece in chunks:
            made += len(piece)
            if _is_bomb(made, stored) or made > SPOOL_LIMIT:
                raise UserError(f"{where} is a bomb: its {stored} bytes become more than {made}; refused")
            file.write(piece)
