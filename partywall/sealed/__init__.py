"""The sealed format v1 (docs/sealed-format.md): files encrypted before they leave their owner's machine."""

from partywall.sealed.format import HEADER_BYTES, SEGMENT_BYTES, Context, Header, parse_header, sealed_size
from partywall.sealed.keys import KEY_BYTES, DataKey, wipe
from partywall.sealed.reader import SealedReader
from partywall.sealed.seal import Sealer, seal_stream
from partywall.sealed.source import FileSource, MemorySource, Source

__all__ = [
    "Context",
    "Header",
    "HEADER_BYTES",
    "SEGMENT_BYTES",
    "KEY_BYTES",
    "parse_header",
    "sealed_size",
    "DataKey",
    "wipe",
    "Sealer",
    "seal_stream",
    "SealedReader",
    "Source",
    "FileSource",
    "MemorySource",
]
