"""Files that want to hurt their reader, or that are not what they say."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import docx
import fpdf
import openpyxl

HARMLESS = "The tide turns at noon."
SECRET = "evil.txt"

_SPACE = b" " * 2**20


def zip_bomb(path: Path) -> None:
    """A Word file whose text unpacks to 700 MiB, and says so."""
    _document(path, _squeezed(b"<w:document>", 700), 700 * 2**20)


def lying_bomb(path: Path) -> None:
    """The same, but it says that there are 1,000 bytes."""
    _document(path, _squeezed(b"<w:document>", 700), 1000)


def nested_zip(path: Path) -> None:
    """A right Word file with a zip in it, in which a zip is, and so on, and a bomb in the innermost."""
    inner = _squeezed(b"", 300)
    for _ in range(20):
        inner = _zipped({"more.zip": inner})
    _with_entries(path, {"word/embeddings/more.zip": inner})


def paths_in_zip(path: Path) -> None:
    """A right Word file with entries that want to be written elsewhere."""
    _with_entries(path, {f"../../../../../../tmp/{SECRET}": b"x", f"/tmp/{SECRET}": b"x", "..\\..\\evil.dll": b"x"})


def entity_bomb(path: Path) -> None:
    """A workbook with a cell of a billion laughs."""
    names = [f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10)]
    doctype = f'<!DOCTYPE worksheet [<!ENTITY l0 "laugh">{"".join(names)}]>'
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    cells = "".join(
        f'<c r="{at}" t="inlineStr"><is><t>{text}</t></is></c>' for at, text in [("A1", HARMLESS), ("B1", "&l9;")]
    )
    sheet = (
        f"<?xml version='1.0'?>{doctype}<worksheet {space}><sheetData><row r='1'>{cells}</row></sheetData></worksheet>"
    )
    _replaced(path, _workbook(), "xl/worksheets/sheet1.xml", sheet.encode())


def wide_workbook(path: Path) -> None:
    """Two cells, in the corners of a sheet of 17 billion."""
    book = openpyxl.Workbook()
    book.worksheets[0]["A1"] = HARMLESS
    book.worksheets[0]["XFD1048576"] = "corner"
    book.save(str(path))


def truncated_pdf(path: Path) -> None:
    whole = _pdf().output()
    path.write_bytes(whole[: len(whole) // 3])


def encrypted_pdf(path: Path) -> None:
    pdf = _pdf()
    pdf.set_encryption(owner_password="owner", user_password="user")
    pdf.output(str(path))


def exploding_page(path: Path) -> None:
    """A page whose content unpacks from 100 KB to 100 MB of text."""
    packer = zlib.compressobj(9)
    line = b"(" + b"a" * 1000 + b") Tj\n"
    data = packer.compress(b"BT /F1 1 Tf\n")
    for _ in range(100):
        data += packer.compress(line * 1000)
    _raw_pdf(path, data + packer.compress(b"ET") + packer.flush(), b"/Filter /FlateDecode")


def huge_image(path: Path) -> None:
    """A page that is an image of 10,000,000,000 pixels, and no text."""
    image = b"/Type /XObject /Subtype /Image /Width 100000 /Height 100000 /ColorSpace /DeviceRGB /BitsPerComponent 8"
    _raw_pdf(path, b"q 600 0 0 800 0 0 cm /I Do Q", b"", image + b" /Filter /FlateDecode", zlib.compress(_SPACE * 30))


def deep_html(path: Path) -> None:
    path.write_text("<div>" * 100_000 + HARMLESS + "</div>" * 100_000)


def pdf_called_word(path: Path) -> None:
    _pdf().output(str(path))


def picture_called_text(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + random.Random(1).randbytes(5000))


def half_utf16(path: Path) -> None:
    path.write_bytes("Größe".encode("utf-16") + b"\xd8\xd8\xd8")


def noise(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(100_000))


def wide_noise(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" + random.Random(3).randbytes(100_000))


def packed_text(path: Path) -> None:
    path.write_bytes(gzip.compress(HARMLESS.encode() * 20, mtime=0))


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def blanks(path: Path) -> None:
    path.write_text(" \n\t" * 1000)


def one_word(path: Path) -> None:
    """Ten million times the same letter, for which tokenizers need time or memory."""
    path.write_text("a" * 10_000_000)


# name: (maker, extension, code of `last_error`, or empty where the text is right all the same)
FILES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "zip bomb": (zip_bomb, ".docx", "invalid_file"),
    "zip bomb that lies": (lying_bomb, ".docx", "invalid_file"),
    "nested zips": (nested_zip, ".docx", ""),
    "paths in a zip": (paths_in_zip, ".docx", ""),
    "entity bomb": (entity_bomb, ".xlsx", "invalid_file"),
    "wide workbook": (wide_workbook, ".xlsx", ""),
    "truncated PDF": (truncated_pdf, ".pdf", "invalid_file"),
    "encrypted PDF": (encrypted_pdf, ".pdf", "invalid_file"),
    "exploding page": (exploding_page, ".pdf", "invalid_file"),
    "huge image": (huge_image, ".pdf", "invalid_file"),
    "deep HTML": (deep_html, ".html", "invalid_file"),
    "PDF called Word": (pdf_called_word, ".docx", "invalid_file"),
    "picture called text": (picture_called_text, ".txt", "invalid_file"),
    "picture": (picture_called_text, ".png", "unsupported_file"),
    "picture without an extension": (picture_called_text, "", "unsupported_file"),
    "noise without an extension": (noise, "", "unsupported_file"),
    "noise that begins like UTF-16": (wide_noise, ".bin", "unsupported_file"),
    "packed text": (packed_text, ".gz", "unsupported_file"),
    "a zipped document without an extension": (nested_zip, "", "unsupported_file"),
    "blanks without an extension": (blanks, "", "invalid_file"),
    "half a UTF-16": (half_utf16, ".txt", "invalid_file"),
    "noise": (noise, ".md", "invalid_file"),
    "nothing": (nothing, ".txt", "invalid_file"),
    "blanks": (blanks, ".txt", "invalid_file"),
    "one word": (one_word, ".txt", "invalid_file"),
}


def _squeezed(start: bytes, megabytes: int) -> bytes:
    """`start` and so many MiB of blanks, deflated; quickly, as the same bytes again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    body = packer.compress(_SPACE) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + body * megabytes + packer.flush()


def _document(path: Path, packed: bytes, size: int) -> None:
    """A zip whose one file is `packed`, said to be of `size`."""
    name = b"word/document.xml"
    common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0x21, 0, len(packed), size, len(name), 0)
    local = b"PK\x03\x04" + common + name + packed
    central = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def _zipped(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def _with_entries(path: Path, entries: dict[str, bytes]) -> None:
    document = docx.Document()
    document.add_paragraph(HARMLESS)
    document.save(str(path))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def _workbook() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    book.worksheets[0]["A1"] = HARMLESS
    book.save(file)
    return file.getvalue()


def _replaced(path: Path, archive: bytes, name: str, data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, data if entry == name else old.read(entry))


def _pdf() -> fpdf.FPDF:
    pdf = fpdf.FPDF()
    pdf.add_page()
    pdf.set_font("Helvetica", size=12)
    pdf.multi_cell(0, text=(HARMLESS + " ") * 300)
    return pdf


def _raw_pdf(path: Path, content: bytes, filters: bytes, image: bytes = b"", pixels: bytes = b"") -> None:
    resources = b"/Font << /F1 5 0 R >>" + (b" /XObject << /I 6 0 R >>" if image else b"")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources << " + resources + b" >> >>",
        b"<< /Length %d %s >> stream\n%s\nendstream" % (len(content), filters, content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        *([b"<< %s /Length %d >> stream\n%s\nendstream" % (image, len(pixels), pixels)] if image else []),
    ]
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (count, len(data))
    path.write_bytes(data + b"xref\n0 %d\n0000000000 65535 f \n" % count + table + trailer)
