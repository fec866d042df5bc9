"""Pictures made to break a reader: python image_attacks.py FOLDER

Names that begin with `expensive-` ask for much time or memory, within the rules of their format;
all others must be refused or read at little cost.
"""

import io
import itertools
import random
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageCms

Attack = tuple[str, bytes]

PNG_START = b"\x89PNG\r\n\x1a\n"


def attacks() -> Iterator[Attack]:
    """Every attack, the expensive ones last."""
    yield from itertools.chain(
        _cut_short(), _bits_flipped(), _sizes(), _png(), _exif(), _jpeg(), _gif(), _webp()
    )
    yield from itertools.chain(_other_files(), _polyglots(), _expensive())


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.radial_gradient("L").resize(size).convert(mode)


def saved(format_name: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, format_name, **options)
    return buffer.getvalue()


def good() -> dict[str, bytes]:
    """Files with nothing wrong, to be damaged."""
    other = picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    frames: dict[str, object] = {"save_all": True, "append_images": [other]}
    return {
        "png": saved("PNG"),
        "png-palette": saved("PNG", picture("P"), transparency=3),
        "apng": saved("PNG", **frames),
        "jpeg": saved("JPEG"),
        "jpeg-progressive": saved("JPEG", progressive=True),
        "jpeg-cmyk": saved("JPEG", picture("CMYK")),
        "gif": saved("GIF"),
        "gif-animated": saved("GIF", **frames),
        "webp": saved("WEBP"),
        "webp-lossless": saved("WEBP", lossless=True),
        "webp-animated": saved("WEBP", **frames),
    }


def make(folder: Path) -> None:
    """Write every attack into `folder`."""
    for name, data in attacks():
        with (folder / name).open("xb") as file:
            file.write(data)


def _cut_short() -> Iterator[Attack]:
    for name, data in good().items():
        for label, length in {
            "12-bytes": 12,
            "half": len(data) // 2,
            "nine-tenths": len(data) * 9 // 10,
            "all-but-one-byte": len(data) - 1,
        }.items():
            yield f"cut-{name}-to-{label}", data[:length]


def _bits_flipped() -> Iterator[Attack]:
    for (name, data), seed in itertools.product(good().items(), range(3)):
        chance = random.Random(f"{name} {seed}")
        flipped = bytearray(data)
        # Half of them in the header, where they say the most.
        end = min(100, len(data)) if seed % 2 else len(data)
        for _ in range(chance.randint(1, 8)):
            flipped[chance.randrange(4, end)] ^= 1 << chance.randrange(8)
        yield f"flipped-{name}-{seed}", bytes(flipped)


# The formats' parts.


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlace))


def png(*middle: bytes, header: bytes | None = None, pixels: bytes | None = None) -> bytes:
    """A 64×48 RGB picture with `middle` before its pixels."""
    rows = zlib.compress(bytes(48 * (1 + 64 * 3))) if pixels is None else pixels
    parts = (header or ihdr(64, 48), *middle, chunk(b"IDAT", rows), chunk(b"IEND"))
    return PNG_START + b"".join(parts)


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_with(*segments: bytes) -> bytes:
    """A good JPEG with `segments` right after its start."""
    return b"\xff\xd8" + b"".join(segments) + saved("JPEG")[2:]


def exif(*entries: bytes, after: int = 0) -> bytes:
    """A TIFF structure with one directory of 12-byte `entries`."""
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", after)
    return b"II*\0" + struct.pack("<I", 8) + directory


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<2H2I", tag, kind, count, value)


def oriented(orientation: int) -> bytes:
    return exif(entry(0x112, 3, 1, orientation))


def gif(*blocks: bytes, width: int = 64, height: int = 48) -> bytes:
    screen = struct.pack("<2H3B", width, height, 0x80, 0, 0)
    return b"GIF89a" + screen + bytes(3) + b"\xff" * 3 + b"".join(blocks) + b";"


def gif_frame(
    box: tuple[int, int, int, int] = (0, 0, 64, 48),
    code_size: int | None = None,
    codes: bytes | None = None,
) -> bytes:
    """A black frame at `box`: (left, top, width, height)."""
    black = saved("GIF", Image.new("L", box[2:] if 0 < box[2] < 100 else (64, 48)))
    lzw = black[black.index(b",\0\0\0\0") + 10 : -1]
    start = lzw[:1] if code_size is None else bytes([code_size])
    rest = lzw[1:] if codes is None else bytes([len(codes)]) + codes + b"\0"
    return b"," + struct.pack("<4HB", *box, 0) + start + rest


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"WEBP"
    for kind, data in chunks:
        body += kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"VP8X", struct.pack("<I", flags) + sides


def vp8l(data: bytes) -> tuple[bytes, bytes]:
    """The one chunk of pixels in a simple lossless WebP."""
    return b"VP8L", data[20:]


def _sizes() -> Iterator[Attack]:
    for label, width, height in (
        ("2-31", 2**31 - 1, 2**31 - 1),
        ("2-32", 2**32 - 1, 1),
        ("65500", 65500, 65500),
        ("12000", 12000, 12000),
        ("wide", 60000, 100),
        ("line", 1, 60000),
        ("no-width", 0, 48),
        ("one-pixel", 1, 1),
        ("icon", 31, 31),
    ):
        yield f"size-png-{label}", png(header=ihdr(width, height))
    sof = saved("JPEG").index(b"\xff\xc0") + 5
    for label, width, height in (
        ("65500", 65500, 65500),
        ("10000", 10000, 10000),
        ("more-than-there-is", 64, 4800),
        ("no-height", 64, 0),
        ("no-width", 0, 48),
    ):
        data = bytearray(saved("JPEG"))
        struct.pack_into(">2H", data, sof, height, width)
        yield f"size-jpeg-{label}", bytes(data)
    yield "size-gif-screen", gif(gif_frame(), width=65535, height=65535)
    yield "size-gif-screen-10000", gif(gif_frame(), width=10000, height=10000)
    yield "size-gif-frame", gif(gif_frame((0, 0, 65535, 65535)))
    yield "size-webp-canvas", riff(vp8x(2**24, 2**24), vp8l(saved("WEBP", lossless=True)))
    yield "size-webp-canvas-12000", riff(vp8x(12000, 12000), vp8l(saved("WEBP", lossless=True)))
    yield "size-webp-lossless", riff((b"VP8L", b"\x2f" + b"\xff\xff\xff\x0f" + bytes(20)))
    lossy = b"\x30\x01\x00\x9d\x01\x2a" + struct.pack("<2H", 16383, 16383)
    yield "size-webp-lossy", riff((b"VP8 ", lossy + bytes(20)))


def _png() -> Iterator[Attack]:
    bomb = zlib.compress(bytes(50_000_000), 9)
    yield "png-text-bomb", png(chunk(b"zTXt", b"k\0\0" + bomb))
    yield "png-international-text-bomb", png(chunk(b"iTXt", b"k\0\1\0\0\0" + bomb))
    yield "png-profile-bomb", png(chunk(b"iCCP", b"k\0\0" + bomb))
    nearly = zlib.compress(bytes(1_000_000), 9)
    yield "png-100-texts-of-a-megabyte", png(*[chunk(b"zTXt", b"k\0\0" + nearly)] * 100)
    yield "png-pixel-bomb", png(pixels=bomb)
    yield "png-10000-texts", png(*[chunk(b"tEXt", b"k\0v")] * 10_000)
    yield "png-10000-private-chunks", png(*[chunk(b"prVt")] * 10_000)
    yield "png-pixels-in-1-byte-chunks", _png_in_crumbs()
    # Pillow keeps texts under their own names beside what it knows of the picture.
    for key in ("transparency", "icc_profile", "exif", "bbox", "interlace", "gamma", "dpi"):
        yield f"png-text-named-{key}", png(chunk(b"tEXt", key.encode() + b"\0nonsense"))
    yield "png-text-raw-exif", png(chunk(b"tEXt", b"Raw profile type exif\0nonsense"))
    yield (
        "png-orientation-in-xmp",
        png(chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation="9"')),
    )
    yield "png-wrong-checksum", png().replace(b"IEND\xae", b"IEND\xaf")
    yield "png-wrong-header-checksum", png().replace(ihdr(64, 48)[-4:], b"\0\0\0\0")
    yield "png-two-headers", png(ihdr(9999, 9999))
    yield "png-no-header", png(header=chunk(b"tEXt", b"k\0v"))
    yield "png-no-pixels", PNG_START + ihdr(64, 48) + chunk(b"IEND")
    yield "png-empty-pixels", png(pixels=b"")
    yield "png-no-palette", png(header=ihdr(64, 48, colour=3))
    yield "png-short-palette", _indexed(chunk(b"PLTE", b"\1\2\3"), b"\xff")
    yield "png-long-palette", _indexed(chunk(b"PLTE", bytes(3 * 1000)), b"\xff")
    yield "png-odd-palette", _indexed(chunk(b"PLTE", bytes(7)), b"\1")
    yield (
        "png-long-transparency",
        _indexed(chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", b"\1" * 5000), b"\1"),
    )
    yield "png-short-transparency", png(chunk(b"tRNS", b"\0"))
    yield "png-depth-3", png(header=ihdr(64, 48, depth=3))
    yield "png-colour-type-7", png(header=ihdr(64, 48, colour=7))
    yield "png-interlace-9", png(header=ihdr(64, 48, interlace=9))
    yield "png-interlaced-without-rows", png(header=ihdr(64, 48, interlace=1))
    yield "png-chunk-of-2-gigabytes", PNG_START + ihdr(64, 48) + struct.pack(">I", 2**31) + b"tEXt"
    yield "png-unknown-critical-chunk", png(chunk(b"CRIT", b"x"))
    yield "png-garbage-profile", png(chunk(b"iCCP", b"k\0\0" + zlib.compress(b"x" * 3000)))
    yield "png-animation-control-twice", png(*[chunk(b"acTL", struct.pack(">2I", 2, 0))] * 2)
    yield "png-animation-of-2-32-frames", png(chunk(b"acTL", struct.pack(">2I", 2**32 - 1, 0)))
    for label, box in (("outside", (64, 48, 60, 40)), ("empty", (0, 0, 0, 0))):
        control = chunk(b"acTL", struct.pack(">2I", 2, 0))
        frame = chunk(b"fcTL", struct.pack(">5I2H2B", 0, *box, 1, 0, 9, 9))
        yield f"png-animation-frame-{label}", png(control, frame)


def _png_in_crumbs() -> bytes:
    rows = zlib.compress(bytes(48 * (1 + 64 * 3)), 0)
    crumbs = (chunk(b"IDAT", rows[i : i + 1]) for i in range(len(rows)))
    return PNG_START + ihdr(64, 48) + b"".join(crumbs) + chunk(b"IEND")


def _indexed(palette: bytes, index: bytes) -> bytes:
    rows = zlib.compress((b"\0" + index * 64) * 48)
    return png(palette, header=ihdr(64, 48, colour=3), pixels=rows)


def _exif() -> Iterator[Attack]:
    many = b"".join(entry(tag, 7, 60_000, 0) for tag in range(5000))
    for label, data in {
        "points-at-itself": exif(entry(0x112, 3, 1, 6), after=8),
        "of-itself": exif(entry(0x8769, 4, 1, 8), entry(0x8825, 4, 1, 8)),
        "offset-2-32": exif(entry(0x10E, 2, 2**32 - 1, 2**32 - 1)),
        "count-65535": b"II*\0\x08\0\0\0\xff\xff" + bytes(100),
        "overlapping-60-kilobytes": b"II*\0" + struct.pack("<IH", 8, 5000) + many,
        "orientation-0": oriented(0),
        "orientation-9": oriented(9),
        "orientation-a-text": exif(entry(0x112, 2, 4, 0x36363636)),
        "orientation-a-fraction": exif(entry(0x112, 5, 1, 8)),
        "orientations": exif(entry(0x112, 3, 2, 0x00060006)),
        "resolution-of-nothing": exif(entry(0x11A, 5, 1, 0), entry(0x128, 3, 1, 2)),
        "garbage": b"\xff" * 500,
        "empty": b"",
        "big-tiff": b"II+\0\x08\0\0\0" + b"\xff" * 100,
    }.items():
        yield f"exif-{label}-jpeg", jpeg_with(segment(0xE1, b"Exif\0\0" + data[:65000]))
        yield f"exif-{label}-png", png(chunk(b"eXIf", data))
    webp = saved("WEBP", exif=b"Exif\0\0" + b"\xff" * 500)
    yield "exif-garbage-webp", webp
    # The parts of Exif that are spread over several segments are joined.
    parts = [segment(0xE1, b"Exif\0\0" + part) for part in (many[:60_000], many[60_000:])]
    yield "exif-in-40-segments", jpeg_with(*parts * 20)


def _jpeg() -> Iterator[Attack]:
    start = saved("JPEG")
    yield "jpeg-only-a-start", b"\xff\xd8"
    yield "jpeg-start-and-end", b"\xff\xd8\xff\xd9"
    yield "jpeg-zero-length-segment", b"\xff\xd8\xff\xe0\0\0" + start[2:]
    yield "jpeg-no-tables", b"\xff\xd8" + start[start.index(b"\xff\xc0") :]
    yield "jpeg-no-quantisation", start.replace(b"\xff\xdb", b"\xff\xec")
    yield "jpeg-no-huffman-tables", start.replace(b"\xff\xc4", b"\xff\xec")
    yield "jpeg-100000-empty-segments", jpeg_with(*[segment(0xEE, b"")] * 100_000)
    yield "jpeg-100000-bytes-of-padding", b"\xff\xd8" + b"\xff" * 100_000 + start[2:]
    yield "jpeg-1000000-bytes-of-junk", start[:20] + bytes(1_000_000) + start[20:]
    yield "jpeg-end-is-missing-and-junk-follows", start[:-2] + b"\xff" * 50_000
    frame = start.index(b"\xff\xc0")
    for kind, name in {
        0xC1: "extended",
        0xC2: "progressive-by-name-only",
        0xC3: "lossless",
        0xC5: "hierarchical",
        0xC9: "arithmetic",
        0xCA: "arithmetic-progressive",
        0xF7: "jpeg-ls",
    }.items():
        changed = bytearray(start)
        changed[frame + 1] = kind
        yield f"jpeg-{name}", bytes(changed)
    for label, at, value in (
        ("12-bit", 4, 12),
        ("16-components", 9, 16),
        ("2-components", 9, 2),
        ("sampling-0", 11, 0),
        ("sampling-15", 11, 0xFF),
        ("quantisation-table-9", 12, 9),
    ):
        changed = bytearray(start)
        changed[frame + at] = value
        yield f"jpeg-{label}", bytes(changed)
    other = segment(0xC0, struct.pack(">B2HB", 8, 9999, 9999, 3) + bytes(9))
    yield "jpeg-two-frame-headers", start[:frame] + other + start[frame:]
    for transform in (0, 1, 2, 9):
        adobe = segment(0xEE, b"Adobe" + bytes(6) + bytes([transform]))
        yield f"jpeg-adobe-{transform}", b"\xff\xd8" + adobe + saved("JPEG", picture("CMYK"))[2:]
    yield "jpeg-adobe-cut", jpeg_with(segment(0xEE, b"Adobe"))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for label, icc in {
        "garbage": b"x" * 3000,
        "empty": b"",
        "cut": profile[:200],
        "flipped": bytes(b ^ (i % 37 == 0) for i, b in enumerate(profile)),
        "tags-2-32": profile[:128] + b"\xff\xff\xff\xff" + profile[132:],
        "lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    }.items():
        yield f"jpeg-profile-{label}", jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1" + icc))
    yield "jpeg-profile-part-2-of-1", jpeg_with(segment(0xE2, b"ICC_PROFILE\0\2\1" + profile))
    yield "jpeg-profile-without-number", jpeg_with(segment(0xE2, b"ICC_PROFILE\0"))
    yield "jpeg-many-pictures-garbage", jpeg_with(segment(0xE2, b"MPF\0" + b"\xff" * 60))
    index = exif(entry(0xB000, 7, 4, 0), entry(0xB001, 4, 1, 9), entry(0xB002, 7, 16, 8))
    yield "jpeg-many-pictures-elsewhere", jpeg_with(segment(0xE2, b"MPF\0" + index))
    yield (
        "jpeg-photoshop-block",
        jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed\0\0\xff\xff\xff\xff" + bytes(9))),
    )
    yield "jpeg-flashpix", jpeg_with(segment(0xE2, b"FPXR\0"))
    yield "jpeg-restarts", jpeg_with(segment(0xDD, b"\0\1"))


def _gif() -> Iterator[Attack]:
    yield "gif-no-frame", gif()
    yield "gif-frame-without-size", gif(gif_frame((0, 0, 0, 0)))
    yield "gif-frame-elsewhere", gif(gif_frame((60000, 100, 1, 1)))
    yield "gif-frame-outside", gif(gif_frame((60, 40, 64, 48)))
    for code_size in (0, 1, 9, 12, 13, 255):
        yield f"gif-code-size-{code_size}", gif(gif_frame(code_size=code_size))
    yield "gif-no-codes", gif(gif_frame(codes=b""))
    yield "gif-wrong-codes", gif(gif_frame(codes=b"\xff" * 255))
    yield "gif-no-palette", b"GIF89a" + struct.pack("<2H3B", 64, 48, 0, 9, 9) + gif_frame() + b";"
    yield "gif-transparency-255", gif(b"!\xf9\4\1\0\0\xff\0", gif_frame())
    yield "gif-short-control", gif(b"!\xf9\1\1\0", gif_frame())
    yield "gif-cut-control", gif(b"!\xf9\4\1")
    yield "gif-disposal", gif(b"!\xf9\4\x0d\0\0\1\0", gif_frame((0, 0, 9, 9)), gif_frame())
    yield "gif-loop-block-of-nothing", gif(b"!\xff\x0bNETSCAPE2.0\0", gif_frame())
    yield "gif-100000-comments", gif(b"!\xfe\1x\0" * 100_000, gif_frame())
    yield "gif-100000-extensions", gif(b"!\1\1x\0" * 100_000, gif_frame())
    yield "gif-10000-frames", gif(*[gif_frame()] * 10_000)
    yield "gif-endless-sub-blocks", gif(b"!\xfe" + b"\xff" * 100_000)


def _webp() -> Iterator[Attack]:
    lossless, lossy = saved("WEBP", lossless=True), saved("WEBP")
    yield "webp-riff-size-0", lossy[:4] + bytes(4) + lossy[8:]
    yield "webp-riff-size-2-32", lossy[:4] + b"\xff" * 4 + lossy[8:]
    yield "webp-chunk-size-2-32", lossy[:16] + b"\xff" * 4 + lossy[20:]
    yield "webp-no-chunks", riff()
    yield "webp-only-a-canvas", riff(vp8x(64, 48))
    yield "webp-other-canvas", riff(vp8x(640, 480), vp8l(lossless))
    yield "webp-alpha-promised", riff(vp8x(64, 48, 0x10), (b"VP8 ", lossy[20:]))
    yield (
        "webp-alpha-garbage",
        riff(vp8x(64, 48, 0x10), (b"ALPH", b"\xff" * 50), (b"VP8 ", lossy[20:])),
    )
    yield "webp-profile-garbage", saved("WEBP", icc_profile=b"x" * 3000)
    yield "webp-unknown-chunk", riff(vp8x(64, 48), (b"JUNK", b"x"), vp8l(lossless))
    sound = riff((b"fmt ", bytes(16)), (b"data", bytes(100)))
    yield "webp-a-sound", sound.replace(b"WEBP", b"WAVE")
    animation = (b"ANIM", bytes(6))
    inner = b"VP8L" + struct.pack("<I", len(lossless) - 20) + lossless[20:]
    for label, x, count in (("outside-the-canvas", 500, 1), ("1000-times", 0, 1000)):
        header = struct.pack("<I", x)[:3] + bytes(3) + b"\x3f\0\0\x2f\0\0" + bytes(4)
        frame = (b"ANMF", header + inner)
        yield f"webp-frame-{label}", riff(vp8x(64, 48, 2), animation, *[frame] * count)
    yield "webp-animation-without-frames", riff(vp8x(64, 48, 2), animation)


def _other_files() -> Iterator[Attack]:
    chance = random.Random(0)
    for name, data in {
        "nothing": b"",
        "one-byte": b"\x89",
        "zeros": bytes(10_000),
        "random": chance.randbytes(10_000),
        "text": b"root:x:0:0:root:/root:/bin/bash\n" * 9,
        "html": b"<!DOCTYPE html><html>404: Not Found</html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "svg-entities": b'<!DOCTYPE s [<!ENTITY a "aaaa">]><svg>&a;</svg>',
        "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
        "mp4": b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(100),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(100),
        "xpm": b"/* XPM */\nstatic char *x[] = {};",
        "zip": _zip(),
    }.items():
        yield f"other-{name}", data
    for name in (
        "TIFF",
        "BMP",
        "ICO",
        "PPM",
        "TGA",
        "AVIF",
        "JPEG2000",
        "PDF",
        "EPS",
        "PCX",
        "DDS",
    ):
        yield f"other-saved-{name.lower()}", saved(name, picture(size=(128, 96)))


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", saved("PNG"))
    return buffer.getvalue()


def _polyglots() -> Iterator[Attack]:
    """Two files in one."""
    script = b"<?php system($_GET['c']); ?>"
    for name in ("png", "jpeg", "gif", "webp"):
        yield f"polyglot-{name}-and-zip", good()[name] + _zip()
        yield f"polyglot-{name}-after-pdf", b"%PDF-1.7\n" + good()[name]
    yield "polyglot-png-and-jpeg", good()["png"] + good()["jpeg"]
    yield "polyglot-jpeg-and-script", jpeg_with(segment(0xFE, script))
    yield "polyglot-png-and-script", png(chunk(b"tEXt", b"k\0" + script))
    yield "polyglot-gif-and-javascript", gif(b"!\xfe\x09=1;/*   \0", gif_frame())
    yield "polyglot-jpeg-and-film", good()["jpeg"] + b"\0\0\0\x18ftypmp42" + bytes(50_000)


def _expensive() -> Iterator[Attack]:
    rows = zlib.compress(bytes(8000 * (1 + 8000 * 4)), 1)
    yield "expensive-png", png(header=ihdr(8000, 8000, colour=6), pixels=rows)
    yield "expensive-webp", saved("WEBP", Image.new("RGBA", (8000, 8000)), lossless=True, method=0)
    yield "expensive-gif", saved("GIF", Image.new("L", (8000, 8000)))
    yield "expensive-jpeg-scans", _jpeg_of_scans(8000, 5000)
    empty_names = chunk(b"zTXt", b"\0\0" + zlib.compress(bytes(1_000_000), 9))
    yield "expensive-png-texts-without-names", png(*[empty_names] * 30_000)


def _jpeg_of_scans(side: int, count: int) -> bytes:
    """A progressive JPEG that is drawn `count` times: each scan is long runs of empty blocks."""
    blocks = (side // 8) ** 2
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    # Either table has one code of one bit: no difference, and a run of at least 2¹⁴ blocks.
    one_code = b"\1" + bytes(15)
    tables = segment(0xDB, b"\0" + b"\1" * 64)
    tables += segment(0xC4, b"\x00" + one_code + b"\x00")
    tables += segment(0xC4, b"\x10" + one_code + b"\xe0")
    frame = segment(0xC2, struct.pack(">B2HB", 8, side, side, 3) + components)
    first = segment(0xDA, b"\3\1\0\2\0\3\0\0\0\0") + bytes(3 * blocks // 8 + 1)
    scan = segment(0xDA, b"\1\1\0\1\x3f\0") + bytes(2 * (blocks // (1 << 14) + 1))
    return b"\xff\xd8" + tables + frame + first + scan * count + b"\xff\xd9"


if __name__ == "__main__":
    make(Path(sys.argv[1]))
