"""URLs: one key for all spellings of an address, and the domain an address belongs to."""

import functools
import hashlib
import ipaddress
import posixpath
import re
import urllib.parse

# Parameters that say how a reader came, not what is read.
_TRACKING = re.compile(r"^(utm_\w+|fbclid|gclid|dclid|msclkid|mc_cid|mc_eid|igshid|_ga|ref_src)$")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MOBILE = re.compile(r"^(m|mobile|amp)\.(?=[^.]+\.)")
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
MAX_URL = 4096
_BREAKS = re.compile(r"[\t\r\n]+")
_CONTROLS = re.compile(r"[\x00-\x20\x7f]")


def clean(url: str) -> str:
    """A URL as browsers take it: no blanks around it, no line breaks in it, controls escaped."""
    url = _BREAKS.sub("", url.strip())
    return _CONTROLS.sub(lambda match: urllib.parse.quote(match[0]), url)


def normalise(url: str, *, fold_mobile: bool = False) -> str | None:
    """The canonical form of an http(s) URL; None if it is not one.

    Two URLs with one form are taken for one page: case of scheme and host, international names,
    default ports, user info, dot segments, escapes of plain characters, order of the query,
    tracking parameters and fragments do not count; the query itself does. The form serves as a
    key: fetch the original. fold_mobile: take `m.`, `mobile.` and `amp.` hosts for the main one.
    """
    try:
        parts = urllib.parse.urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not host or len(url) > MAX_URL:
        return None
    ascii_host = _ascii_host(host)
    if ascii_host is None:
        return None
    if fold_mobile:
        ascii_host = _MOBILE.sub("", ascii_host)
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        ascii_host += f":{port}"
    query = "&".join(
        sorted(
            _escapes(pair)
            for pair in parts.query.split("&")
            if pair and not _TRACKING.match(pair.split("=", 1)[0])
        )
    )
    # http and https of one address are one page: sites moved from one to the other for years.
    return f"http://{ascii_host}{_path(parts.path)}" + (f"?{query}" if query else "")


@functools.lru_cache(maxsize=65536)
def _ascii_host(host: str) -> str | None:
    host = host.rstrip(".")
    if not host or len(host) > 253:
        return None
    if ":" in host:  # an IPv6 address
        try:
            return f"[{ipaddress.IPv6Address(host.split('%')[0])}]"
        except ValueError:
            return None
    if host.isascii():
        return host if re.fullmatch(r"[a-z0-9._-]+", host) else None
    import idna

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        return None


def _path(path: str) -> str:
    path = _escapes(path) or "/"
    if "/." in path:
        trailing = path.endswith(("/", "/.", "/.."))
        path = posixpath.normpath(path)
        path = "/" + path.lstrip("/") + ("/" if trailing and path != "/" else "")
    return path


def _escapes(text: str) -> str:
    """Escapes of unreserved characters undone, others upper case, what needs escaping escaped."""

    def fix(match: re.Match[str]) -> str:
        char = chr(int(match[1], 16))
        return char if char in _UNRESERVED else f"%{match[1].upper()}"

    text = _ESCAPE.sub(fix, text) if "%" in text else text
    if text.isascii() and " " not in text:
        return text
    return urllib.parse.quote(text, safe="%/:=&?~#+!$,;'@()*[]|", errors="replace")


def key(normal: str) -> bytes:
    """128 bits that stand for a normalised URL."""
    return hashlib.blake2b(normal.encode("utf-8", "replace"), digest_size=16).digest()


def host(url: str) -> str:
    """The host of a URL in lower case, "" if it has none."""
    try:
        return (urllib.parse.urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


@functools.lru_cache(maxsize=65536)
def registered_domain(host: str) -> str:
    """`news.bbc.co.uk` -> `bbc.co.uk`, by the public suffix list that tldextract carries."""
    extracted = _extractor()(host)
    return extracted.top_domain_under_public_suffix or host


def domain_label(host: str) -> str:
    """`news.bbc.co.uk` -> `bbc`: the labels of OpenAI's `domains.txt`."""
    return _extractor()(host).domain or host


@functools.cache
def _extractor():  # type: ignore[no-untyped-def]
    import tldextract

    # No fetching: the list in the package is part of the pinned version. Blogs on blogspot.com
    # count as blogspot, as in `domains.txt`, so private suffixes stay out.
    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
