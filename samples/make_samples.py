"""Write the sample memos, their expected answers and the transcripts of the scans.

Run from anywhere: ``python samples/make_samples.py`` (needs the `samples` extra). Everything is seeded, so a
second run writes the same bytes as long as the versions of Faker, Pillow, reportlab and zlib stay the same.
The people are invented, and the telephone numbers lie in ranges reserved for fiction (555-0100 to 555-0199;
Berlin 23125).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import random
import shutil
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import memo_layouts as layouts
from docx import Document
from faker import Faker
from memo_layouts import Layout, Patient, Truth
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.pagesizes import A5
from reportlab.pdfgen.canvas import Canvas

HERE = Path(__file__).parent
SEED = 20250117
ZIP_TIME = (2025, 1, 17, 9, 0, 0)

PROCEDURES = (
    "Root canal treatment", "Porcelain crown fitting", "Wisdom tooth extraction", "Teeth whitening session",
    "Dental implant placement", "Routine cleaning and check-up", "Composite filling (tooth 14)",
    "Orthodontic consultation", "Periodontal scaling", "Ceramic veneer placement", "Gum graft surgery",
    "Bridge fitting", "Night guard impression", "Fluoride treatment", "X-ray and examination",
    "Endodontic retreatment", "Denture adjustment", "Sinus lift", "Apicoectomy", "Dry socket review",
)  # fmt: skip
GERMAN_PROCEDURES = ("Wurzelkanalbehandlung", "Prophylaxe für Zähne und Zahnfleisch", "Füllung (Zahn 36)")

PLAIN: tuple[tuple[str, Layout], ...] = (
    ("memos/memo_001.txt", layouts.intake_form),
    ("memos/memo_002.txt", layouts.front_desk_note),
    ("memos/memo_003.txt", layouts.clinical_note),
    ("memos/memo_004.txt", layouts.value_below_label),
    ("memos/memo_005.txt", layouts.equals_signs),
    ("memos/memo_006.txt", layouts.dotted_leaders),
    ("memos/memo_007.txt", layouts.bullets),
    ("memos/memo_008.txt", layouts.markdown),
    ("memos/memo_009.txt", layouts.pipe_table),
    ("memos/memo_010.txt", layouts.one_line),
    ("memos/2025/01/referral 11.txt", layouts.referral_letter),
    ("memos/2025/01/dictation 12.txt", layouts.dictation),
    ("memos/2025/01/from patient 13.txt", layouts.patient_writes),
    ("memos/2025/01/mail 14.txt", layouts.email_labelled),
    ("memos/2025/01/mail 15.txt", layouts.email_prose),
    ("memos/2025/01/referral 16.txt", layouts.referral_letter),
    ("memos/2025/02/intake (17).txt", layouts.intake_form),
    ("memos/2025/02/memo [urgent] #18.txt", layouts.front_desk_note),
    ("memos/2025/02/100% confirmed 19.txt", layouts.email_labelled),
    ("memos/2025/02/a+b & c 20.txt", layouts.bullets),
    ("memos/2025/02/dictation 21.txt", layouts.dictation),
    ("memos/2025/02/mail 22.txt", layouts.email_prose),
    ("memos/2025/02/from patient 23.txt", layouts.patient_writes),
    ("memos/archive/old/clinical 24.txt", layouts.clinical_note),
)
ENCODED: tuple[tuple[str, Layout, str], ...] = (
    ("memos/encodings/utf8_bom_25.txt", layouts.intake_form, "utf-8-sig"),
    ("memos/encodings/utf8_bom_26.txt", layouts.referral_letter, "utf-8-sig"),
    ("memos/encodings/utf16_le_27.txt", layouts.front_desk_note, "utf-16-le"),
    ("memos/encodings/utf16_le_28.txt", layouts.typographic_form, "utf-16-le"),
    ("memos/encodings/utf16_be_29.txt", layouts.email_prose, "utf-16-be"),
    ("memos/encodings/utf16_be_30.txt", layouts.german_form, "utf-16-be"),
    ("memos/encodings/windows_31.txt", layouts.typographic_form, "cp1252"),
    ("memos/encodings/windows_32.txt", layouts.typographic_form, "cp1252"),
    ("memos/Überweisungen/Überweisung für Müller 33.txt", layouts.german_form, "cp1252"),
    ("memos/Überweisungen/Überweisung 34.txt", layouts.german_form, "cp1252"),
    ("memos/Überweisungen/Überweisung 35.txt", layouts.german_form, "utf-8"),
)
PDFS: tuple[tuple[str, Layout], ...] = (
    ("memos/2025/01/letter 36.pdf", layouts.referral_letter),
    ("memos/2025/01/intake 37.pdf", layouts.intake_form),
    ("memos/2025/02/note 38.pdf", layouts.clinical_note),
    ("memos/2025/02/card 39.pdf", layouts.value_below_label),
    ("memos/2025/02/two pages 40.pdf", layouts.bullets),
    ("memos/archive/letter 41.pdf", layouts.dictation),
)
WORDS: tuple[tuple[str, Layout], ...] = (
    ("memos/2025/01/letter 42.docx", layouts.referral_letter),
    ("memos/2025/01/note 43.docx", layouts.front_desk_note),
    ("memos/2025/02/form 44.docx", layouts.intake_form),
    ("memos/2025/02/table 45.docx", layouts.pipe_table),
    ("memos/archive/mail 46.docx", layouts.email_prose),
)
SCANS: tuple[tuple[str, Layout], ...] = (
    ("memos/scans/scan_47.png", layouts.intake_form),
    ("memos/scans/scan_48.png", layouts.front_desk_note),
    ("memos/scans/scan_49.png", layouts.bullets),
    ("memos/scans/scan_50.png", layouts.referral_letter),
    ("memos/scans/scan 51.png", layouts.equals_signs),
)
EMPTY = "memos/2025/02/empty 52.txt"
CORRUPT = "memos/2025/02/broken 53.pdf"


class People:
    """Invented patients, one after the other, the same ones each time."""

    def __init__(self) -> None:
        self._rng = random.Random(SEED)
        self._english = Faker("en_US")
        self._german = Faker("de_DE")
        for faker in (self._english, self._german):
            faker.seed_instance(SEED)
        self._count = 0

    def draw(self, layout: Layout) -> Patient:
        """The next patient: German ones for the German form, names with accents for the typographic one."""
        rng, german = self._rng, layout is layouts.german_form
        accented = german or layout is layouts.typographic_form
        faker = self._german if accented else self._english
        male = rng.random() < 0.5
        name = self._name(faker, male)
        while accented and name.isascii():
            name = self._name(faker, male)
        self._count += 1
        line = f"01{self._count:02d}"
        exchange = rng.randint(200, 989)
        phones: tuple[str, ...]
        phones = (f"(555) {exchange}-{line}", f"555-{line}", f"+1 212 555 {line}", f"555.{exchange}.{line}")
        if german:
            phones = (f"+49 30 23125 {line[1:]}", f"030/23125-{line[1:]}")
        return Patient(
            name=name,
            male=male,
            age=rng.randint(6, 91),
            phone=rng.choice(phones),
            day=dt.date(2025, 1, 20) + dt.timedelta(days=rng.randint(0, 120)),
            time=f"{rng.randint(8, 16):02d}:{rng.choice((0, 15, 30, 45)):02d}",
            procedure=rng.choice(GERMAN_PROCEDURES if german else PROCEDURES),
            doctor=f"Dr. {faker.first_name()} {faker.last_name()}",
            practice=f"{self._english.last_name()} Dental Practice",
            other_doctor=f"Dr. {self._english.last_name()}",
        )

    @staticmethod
    def _name(faker: Faker, male: bool) -> str:
        first = faker.first_name_male() if male else faker.first_name_female()
        return f"{first} {faker.last_name()}"


class Writer:
    """Writes documents below the samples folder and remembers what each should become."""

    def __init__(self) -> None:
        self.truth: dict[str, Truth | str] = {}
        self.transcripts: dict[str, str] = {}

    def put(self, path: str, data: bytes, expected: Truth | str) -> None:
        # NFC: the composed form is what S3 tools and most keyboards produce.
        name = unicodedata.normalize("NFC", path)
        target = HERE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.truth[name] = expected

    def save_indexes(self) -> None:
        for name, content in (("truth.json", self.truth), ("transcripts.json", self.transcripts)):
            text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
            (HERE / name).write_text(text + "\n", encoding="utf-8")


def encoded(text: str, encoding: str) -> bytes:
    """The text as bytes; UTF-16 gets its byte order mark, Windows text its CRLF line ends."""
    if encoding.startswith("utf-16"):
        return ("\ufeff" + text).encode(encoding)
    if encoding == "cp1252":
        return text.replace("\n", "\r\n").encode(encoding)
    return text.encode(encoding)


def pdf(text: str, *, lines_per_page: int = 40) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A5, invariant=True)
    lines = text.splitlines()
    for start in range(0, len(lines), lines_per_page):
        body = canvas.beginText(28, A5[1] - 40)
        body.setFont("Helvetica", 7)
        for line in lines[start : start + lines_per_page]:
            body.textLine(line)
        canvas.drawText(body)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def word(text: str, *, as_table: bool = False) -> bytes:
    document = Document()
    if as_table:
        rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in text.splitlines()]
        rows = [row for row in rows if not row[0].startswith("---")]
        table = document.add_table(rows=len(rows), cols=2)
        for cells, row in zip(rows, table.rows, strict=True):
            for cell, value in zip(row.cells, cells, strict=True):
                cell.text = value
    else:
        for line in text.splitlines():
            document.add_paragraph(line)
    written = dt.datetime(*ZIP_TIME, tzinfo=dt.UTC)
    document.core_properties.created = document.core_properties.modified = written
    buffer = io.BytesIO()
    document.save(buffer)
    return same_zip_times(buffer.getvalue())


def same_zip_times(data: bytes) -> bytes:
    """The archive with fixed member times, without which each run would differ."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            info = zipfile.ZipInfo(item.filename, ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, source.read(item))
    return out.getvalue()


def scan(text: str) -> bytes:
    """The text as a one-bit image, doubled so that it can be read, with a few specks like a real scan."""
    font = ImageFont.load_default_imagefont()
    lines = text.splitlines()
    width = max(int(font.getlength(line)) for line in lines) + 24
    page = Image.new("1", (width, 14 * len(lines) + 24), 1)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((12, 12 + 14 * number), line, font=font, fill=0)
    specks = random.Random(hashlib.sha256(text.encode()).digest())
    for _ in range(12):
        page.putpixel((specks.randrange(page.width), specks.randrange(page.height)), 0)
    buffer = io.BytesIO()
    page.resize((page.width * 2, page.height * 2)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_all(writer: Writer) -> None:
    people = People()
    for path, layout in PLAIN:
        text, fields = layout(people.draw(layout))
        writer.put(path, text.encode(), fields)
    for path, layout, encoding in ENCODED:
        text, fields = layout(people.draw(layout))
        writer.put(path, encoded(text, encoding), fields)
    for path, layout in PDFS:
        text, fields = layout(people.draw(layout))
        writer.put(path, pdf(text, lines_per_page=6 if "two pages" in path else 40), fields)
    for path, layout in WORDS:
        text, fields = layout(people.draw(layout))
        writer.put(path, word(text, as_table=layout is layouts.pipe_table), fields)
    for path, layout in SCANS:
        text, fields = layout(replace(people.draw(layout), practice="Scan Street Dental Practice"))
        image = scan(text)
        writer.put(path, image, fields)
        writer.transcripts[hashlib.sha256(image).hexdigest()] = text
    writer.put(EMPTY, b"", "empty")
    # Cut off in the middle of its objects and without a cross-reference table, like a broken upload.
    broken = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n2 0 obj\n<< /Ty"
    writer.put(CORRUPT, broken, "corrupt")


def main() -> None:
    shutil.rmtree(HERE / "memos", ignore_errors=True)
    writer = Writer()
    write_all(writer)
    writer.save_indexes()
    print(f"{len(writer.truth)} documents, {len(writer.transcripts)} transcripts")


if __name__ == "__main__":
    main()
