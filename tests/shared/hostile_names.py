"""Names that would lead outside a directory, or that a file system refuses."""

from __future__ import annotations

from hypothesis import strategies as st

hostile_names = st.text(max_size=20) | st.sampled_from(
    [
        "..",
        "../../up",
        "/etc/passwd",
        "C:\\x",
        "CON",
        "nul.txt",
        "com1 .eml",
        ".hidden",
        "\0",
        "a\u202egpj.exe",
        "x" * 400,
        "é" * 150,
    ]
)
