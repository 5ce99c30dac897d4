"""Formats that self2self cannot read, but names: a message says what a file is, and not only that it is unknown."""

from __future__ import annotations

from self2self.image_io.format import Format, begins_with

FORMATS = (
    Format("gif", "GIF", begins_with(b"GIF8")),
    Format("photoshop", "Photoshop", begins_with(b"8BPS")),
    Format("pdf", "PDF", begins_with(b"%PDF")),
    Format("postscript", "PostScript", begins_with(b"%!PS", b"\xc5\xd0\xd3\xc6")),
    Format("svg", "SVG", begins_with(b"<svg")),
    Format("jpeg2000", "JPEG 2000", begins_with(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    Format("jpegxr", "JPEG XR", begins_with(b"II\xbc\x01")),
    Format("hdf5", "HDF5", begins_with(b"\x89HDF\r\n\x1a\n"), article="an"),
    Format("radiance", "Radiance HDR", begins_with(b"#?RADIANCE", b"#?RGBE")),
    Format("czi", "Zeiss CZI", begins_with(b"ZISRAWFILE")),
    Format("nd2", "Nikon ND2", begins_with(b"\xda\xce\xbe\x0a")),
    Format("lif", "Leica LIF", begins_with(b"\x70\0\0\0")),
    Format("matlab", "MATLAB", begins_with(b"MATLAB 5.0")),
    Format("zip", "ZIP", begins_with(b"PK\x03\x04")),
    Format("video", "video", begins_with(b"ftypisom", b"ftypmp4", b"ftypqt", b"ftypM4V", at=4)),
    Format("matroska", "video", begins_with(b"\x1a\x45\xdf\xa3")),
)
"""Each is recognised by its first bytes alone."""
