"""The dashboard: a page, its style and its scripts, as they lie in this directory. There is nothing to build.

The page asks /overview every second, and nobody else anything: its Content-Security-Policy lets it load its own files
and nothing more. What it is told is shown as text, never as markup, so that a backend cannot say anything to a
browser.
"""

from __future__ import annotations

from importlib.resources import files as resources

HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
)

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def files() -> dict[str, tuple[str, bytes]]:
    """Every file's path at the admin address, with its content type and content."""
    found = {}
    for file in resources(__name__).iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/dashboard/{file.name}"
            found[path] = (kind, file.read_bytes())
    return found
