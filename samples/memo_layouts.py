"""The ways in which the sample memos are written.

A layout takes a `Patient` and returns the memo's text with the six fields exactly as the memo spells them, so
that the expected answer follows from the writing and from nothing else.
"""

# ruff: noqa: RUF001 - typographic quotes and dashes are what these memos are about

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

Truth = dict[str, str]
Layout = Callable[["Patient"], tuple[str, Truth]]


@dataclass(frozen=True)
class Patient:
    """One invented person and one invented appointment."""

    name: str
    male: bool
    age: int
    phone: str
    day: dt.date
    time: str
    procedure: str
    doctor: str
    practice: str
    other_doctor: str

    @property
    def title(self) -> str:
        return "Mr." if self.male else "Ms."

    @property
    def surname(self) -> str:
        return self.name.split()[-1]

    @property
    def he(self) -> str:
        return "he" if self.male else "she"

    @property
    def his(self) -> str:
        return "his" if self.male else "her"

    @property
    def him(self) -> str:
        return "him" if self.male else "her"

    @property
    def year_old(self) -> str:
        """The age with its article: "an 85-year-old"."""
        return f"{'an' if self.age in (8, 11, 18) or 80 <= self.age < 90 else 'a'} {self.age}-year-old"

    @property
    def us_date(self) -> str:
        return self.day.strftime("%m/%d/%Y")

    @property
    def long_date(self) -> str:
        return f"{self.day:%B} {self.day.day}, {self.day.year}"

    @property
    def british_date(self) -> str:
        return f"{self.day.day} {self.day:%B} {self.day.year}"

    @property
    def dotted_date(self) -> str:
        return self.day.strftime("%d.%m.%Y")

    @property
    def written_on(self) -> dt.date:
        """The day the memo was written: some time before the appointment."""
        return self.day - dt.timedelta(days=9)


def truth(person: Patient, *, date: str, procedure: str | None = None, doctor: str | None = None) -> Truth:
    return {
        "patient_name": person.name,
        "patient_age": str(person.age),
        "phone_number": person.phone,
        "scheduled_appointment_date": date,
        "dental_procedure_name": procedure or person.procedure,
        "doctor": doctor or person.doctor,
    }


def lower_first(text: str) -> str:
    """A procedure inside a sentence: "Root canal" -> "root canal", but "X-ray" stays."""
    return text if text[1:2] == "-" else text[:1].lower() + text[1:]


def article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeioux" else "a"


def intake_form(p: Patient) -> tuple[str, Truth]:
    text = f"""{p.practice}
PATIENT INTAKE MEMO

Patient Name: {p.name}
Patient Age: {p.age}
Phone Number: {p.phone}
Scheduled Appointment Date: {p.day.isoformat()}
Dental Procedure Name: {p.procedure}
Doctor: {p.doctor}
"""
    return text, truth(p, date=p.day.isoformat())


def front_desk_note(p: Patient) -> tuple[str, Truth]:
    text = f"""FRONT DESK NOTE

Treatment: {p.procedure}
Physician: {p.doctor}
Name: {p.name}
Telephone: {p.phone}
Age: {p.age} years
Date: {p.us_date}

Notes: {p.title} {p.surname} asked to be called the day before. Insurance card was copied.
"""
    return text, truth(p, date=p.us_date)


def clinical_note(p: Patient) -> tuple[str, Truth]:
    text = f"""CLINICAL NOTE                         written {p.written_on.isoformat()}
-----------------------------------------------------------
FULL NAME        : {p.name.upper()}
AGE              : {p.age}
CONTACT NUMBER   : {p.phone}
TREATING DOCTOR  : {p.doctor}
PROCEDURE        : {p.procedure}
APPOINTMENT DATE : {p.long_date}
-----------------------------------------------------------
S: sensitivity to cold on the lower left side for two weeks.
O: no swelling; previous X-ray of {p.written_on.year - 1} reviewed together with {p.other_doctor}.
A: treatment indicated, patient agreed.
P: see above.
"""
    return text, truth(p, date=p.long_date) | {"patient_name": p.name.upper()}


def value_below_label(p: Patient) -> tuple[str, Truth]:
    text = f"""Appointment card

Patient:
    {p.name}
Age:
    {p.age}
Phone:
    {p.phone}
Procedure:
    {p.procedure}
Treating physician:
    {p.doctor}
Appointment date:
    {p.british_date}
"""
    return text, truth(p, date=p.british_date)


def equals_signs(p: Patient) -> tuple[str, Truth]:
    text = f"""[memo]
patient = {p.name}
age = {p.age}
phone = {p.phone}
scheduled_date = {p.day.isoformat()} {p.time}
procedure_name = {p.procedure}
doctor_name = {p.doctor}

[remarks]
source = call centre
remark = wishes a reminder by text message
"""
    return text, truth(p, date=f"{p.day.isoformat()} {p.time}")


def dotted_leaders(p: Patient) -> tuple[str, Truth]:
    text = f"""{p.practice} - day sheet

Scheduled date ........ {p.long_date}
Patient ............... {p.name}
Age ................... {p.age}
Contact phone ......... {p.phone}
Dentist ............... {p.doctor}
Dental procedure ...... {p.procedure}
"""
    return text, truth(p, date=p.long_date)


def bullets(p: Patient) -> tuple[str, Truth]:
    text = f"""Summary of today's call ({p.written_on:%d %b %Y})

- Patient: {p.name}
- Age: {p.age}
- Mobile: {p.phone}
- Procedure: {p.procedure}
- Appointment: {p.british_date}
- Dentist: {p.doctor}

To do:
- send the consent form
- ask {p.other_doctor} for the earlier records
"""
    return text, truth(p, date=p.british_date)


def markdown(p: Patient) -> tuple[str, Truth]:
    text = f"""# Handover

* **Doctor:** {p.doctor}
* **Patient:** {p.name}
* **Patient's age:** {p.age}
* **Treatment:** {p.procedure}
* **Scheduled appointment:** {p.day.isoformat()}
* **Phone #:** {p.phone}

> Please keep the room free for an hour.
"""
    return text, truth(p, date=p.day.isoformat())


def pipe_table(p: Patient) -> tuple[str, Truth]:
    text = f"""| Field | Value |
|---|---|
| Patient | {p.name} |
| Age | {p.age} |
| Phone | {p.phone} |
| Visit date | {p.us_date} |
| Procedure | {p.procedure} |
| Provider | {p.doctor} |
"""
    return text, truth(p, date=p.us_date)


def one_line(p: Patient) -> tuple[str, Truth]:
    text = (
        f"Patient: {p.name} | Age: {p.age} | Tel: {p.phone} | Appointment: {p.day.isoformat()} | "
        f"Procedure: {p.procedure} | Dr: {p.doctor}\n"
    )
    return text, truth(p, date=p.day.isoformat())


def referral_letter(p: Patient) -> tuple[str, Truth]:
    procedure = lower_first(p.procedure)
    text = f"""{p.practice}
{p.written_on:%B} {p.written_on.day}, {p.written_on.year}

Dear {p.other_doctor},

I am referring my patient {p.title} {p.name}, {p.year_old} with pain on chewing, who is scheduled for
{article(procedure)} {procedure} on {p.long_date}. {p.doctor} will perform the procedure at our practice.
{p.he.capitalize()} can be reached at {p.phone}.

Please send us the latest X-rays before that day.

With kind regards,
Reception
"""
    return text, truth(p, date=p.long_date, procedure=procedure)


def dictation(p: Patient) -> tuple[str, Truth]:
    procedure = lower_first(p.procedure)
    text = f"""Dictated, not read. Patient is {p.name}, age {p.age}, last seen on {p.written_on.isoformat()}.
Discussed the findings and the alternatives. {p.title} {p.surname} agreed to undergo {procedure} with
{p.doctor}. The appointment is set for {p.british_date} at {p.time}. Call {p.him} on {p.phone} if
anything changes.
"""
    return text, truth(p, date=p.british_date, procedure=procedure)


def patient_writes(p: Patient) -> tuple[str, Truth]:
    procedure = lower_first(p.procedure)
    text = f"""Hello,

my name is {p.name} and I am {p.age} years old. I would like to confirm my appointment on
{p.long_date} for {article(procedure)} {procedure} with {p.doctor}. My phone number is {p.phone};
please call in the afternoon.

Thank you!
{p.name.split()[0]}
"""
    return text, truth(p, date=p.long_date, procedure=procedure)


def email_labelled(p: Patient) -> tuple[str, Truth]:
    text = f"""From: Front Desk <desk@example.org>
To: {p.other_doctor} <consult@example.org>
Date: {p.written_on:%a, %d %b %Y} 08:15:00 +0000
Subject: Booking for next week

Hi,

new booking, details below.

  Full name: {p.name}
  Age: {p.age}
  Phone: {p.phone}
  Procedure: {p.procedure}
  Date: {p.day.isoformat()}
  Doctor: {p.doctor}

Best,
Front Desk
Phone: (555) 010-0000
"""
    return text, truth(p, date=p.day.isoformat())


def email_prose(p: Patient) -> tuple[str, Truth]:
    procedure = lower_first(p.procedure)
    text = f"""From: Recall Team <recall@example.org>
Sent: {p.written_on:%A}, {p.written_on.day} {p.written_on:%B} {p.written_on.year} 16:40
To: Reception <reception@example.org>
Subject: RE: recall list

Reception,

{p.name} ({p.age}) rang back. We booked {p.him} in for {article(procedure)} {procedure} on
{p.day.isoformat()} at {p.time} under the care of {p.doctor}. Best number to reach {p.him}: {p.phone}.

Thanks
Recall Team
"""
    return text, truth(p, date=p.day.isoformat(), procedure=procedure)


def german_form(p: Patient) -> tuple[str, Truth]:
    text = f"""{p.practice}
Überweisung – „Zahnärztliche Behandlung“

Patient: {p.name}
Alter: {p.age} Jahre
Telefon: {p.phone}
Termin: {p.dotted_date}
Behandlung: {p.procedure}
Zahnarzt: {p.doctor}

Bemerkung: Der Patient möchte am Vortag telefonisch erinnert werden; Röntgenbilder liegen bei.
"""
    return text, truth(p, date=p.dotted_date)


def typographic_form(p: Patient) -> tuple[str, Truth]:
    text = f"""Memo – “please file”

Patient’s name: {p.name}
Age: {p.age}
Phone: {p.phone}
Treatment: {p.procedure}
Scheduled date: {p.british_date}
Treating doctor: {p.doctor}

The patient said: “I’d rather come in the morning” – we’ll try to arrange it for the café-style waiting room.
"""
    return text, truth(p, date=p.british_date)
