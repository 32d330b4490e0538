"""Checks that a candidate is what its shape suggests, so that a rule may have a loose shape.

Checksums come from python-stdnum, telephone numbers from phonenumbers. A validator
reads one candidate, never the text around it, and has no state.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import groupby, pairwise
from typing import Final, TypeAlias

import phonenumbers
from stdnum import iban, mac
from stdnum.util import clean

Span: TypeAlias = tuple[int, int]
Validator: TypeAlias = Callable[[str], bool]
Finder: TypeAlias = Callable[[str], Iterable[Span]]
"""Says where in a candidate, in characters, what it looks for stands; ascending."""

_MODULES: Final = {
    "ar-cuit": "ar.cuit",
    "au-tfn": "au.tfn",
    "be-national-number": "be.nn",
    "bg-egn": "bg.egn",
    "br-cpf": "br.cpf",
    "ca-sin": "ca.sin",
    "ch-ahv": "ch.ssn",
    "cl-rut": "cl.rut",
    "cn-ric": "cn.ric",
    "cz-sk-birth-number": "cz.rc",
    "de-idnr": "de.idnr",
    "dk-cpr": "dk.cpr",
    "ec-ci": "ec.ci",
    "ee-lt-personal-code": "ee.ik",
    "es-dni": "es.dni",
    "es-nie": "es.nie",
    "fi-hetu": "fi.hetu",
    "fr-nir": "fr.nir",
    "gb-nhs": "gb.nhs",
    "gb-utr": "gb.utr",
    "gr-amka": "gr.amka",
    "hr-oib": "hr.oib",
    "ie-pps": "ie.pps",
    "il-id": "il.idnr",
    "imei": "imei",
    "in-aadhaar": "in_.aadhaar",
    "in-pan": "in_.pan",
    "is-kennitala": "is_.kennitala",
    "it-codicefiscale": "it.codicefiscale",
    "kr-rrn": "kr.rrn",
    "mx-curp": "mx.curp",
    "my-nric": "my.nric",
    "nl-bsn": "nl.bsn",
    "no-birth-number": "no.fodselsnummer",
    "nz-ird": "nz.ird",
    "pe-dni": "pe.cui",
    "pk-cnic": "pk.cnic",
    "pl-pesel": "pl.pesel",
    "pt-nif": "pt.nif",
    "ro-cnp": "ro.cnp",
    "se-personnummer": "se.personnummer",
    "th-citizen-id": "th.pin",
    "tr-tckimlik": "tr.tckimlik",
    "ua-tax-number": "ua.rntrc",
    "us-ein": "us.ein",
    "us-itin": "us.itin",
    "us-rtn": "us.rtn",
    "us-ssn": "us.ssn",
    "za-id": "za.idnr",
}
"""Validator name -> module of python-stdnum whose `is_valid` decides."""

_REGIONS: Final = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "IN", "BR", "AU", "JP", "CN")
"""Where a telephone number without a country code is tried, after its context said it is one."""

_MIN_SECRET_BITS: Final = 12.0
"""Shannon bits of a whole value. `hunter2` has 19.7, `aaaaaaa1` has 4.3."""


_ISSUERS: Final = re.compile(
    r"""(?x)
    4 (?: \d{12} | \d{15} | \d{18} )
    | (?: 5[1-5]\d\d | 222[1-9] | 22[3-9]\d | 2[3-6]\d\d | 27[01]\d | 2720 ) \d{12}
    | 3[47]\d{13}
    | 3 (?: 0[0-59] | [689]\d ) \d{11}
    | (?: 35(?:2[89]|[3-8]\d) | 220[0-4] | 5[06-8]\d\d | 6(?:0\d\d|[257]\d\d|4[4-9]\d|304) )
      \d{12,15}
    """
)
"""First digits and lengths of the cards that issuers give out."""

_GAPS: Final = " \t\n\v\f-./,_+"
_DIGITS: Final = re.compile(r"\d+")
_UNUSUAL_GROUPINGS: Final = frozenset({(4, 6, 5), (4, 6, 4), (6, 6, 4), (6, 10), (6, 13)})

_LONGEST_CARD: Final = 19
_LONGEST_SEARCHED: Final = 32
"""Digits in a run in which a card is sought at every place; longer ones are constants of code."""

_LONG_LIST: Final = 8
"""Commas that make groups of digits a list of numbers, and no parts of a card."""

_LONGEST_SPELLED: Final = 24
"""Digits, one or two at a time, that may be a card with something in front or behind."""


def is_card(candidate: str) -> bool:
    """13 to 19 digits that begin as an issuer's cards do, with the right Luhn digit."""
    digits = clean(candidate, _GAPS)
    return bool(_ISSUERS.fullmatch(digits)) and len(set(digits)) > 1 and _is_luhn(digits)


def _is_luhn(digits: str) -> bool:
    doubled = sum(int("0246813579"[int(digit)]) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


def cards_in(candidate: str) -> list[Span]:
    """Where cards stand in digits with short gaps, ascending and not overlapping.

    A card is made of whole groups of digits, grouped as people do, or stands inside a
    run of at most 32. Not the digits behind a decimal point. O(n).
    """
    groups = [found.span() for found in _DIGITS.finditer(candidate)]
    behind = -1
    cards: list[Span] = []
    for start, end in sorted([*_grouped(candidate, groups), *_spelled(candidate, groups)]):
        if start > behind:
            cards.append((start, end))
            behind = end
    return cards


def _grouped(candidate: str, groups: Sequence[Span]) -> Iterator[Span]:
    gaps = [candidate[a[1] : b[0]] for a, b in pairwise(groups)]
    listed = _listed(gaps)
    for first, (start, end) in enumerate(groups):
        size = end - start
        before = gaps[first - 1] if first else "\n"
        if size < 4 or (size >= 13 and before == "."):
            continue
        if not listed[first] or size >= 13:
            yield from _joined(candidate, groups[first : first + 5], "\n" in before)
        if 16 < size <= _LONGEST_SEARCHED:
            yield from _inside(candidate, start, end)


def _inside(candidate: str, start: int, end: int) -> Iterator[Span]:
    """Cards of 16 digits in a longer run; in one no longer than a card, at its ends only."""
    last = end - 16
    for at in range(start, last + 1) if end - start > _LONGEST_CARD else (start, last):
        if is_card(candidate[at : at + 16]):
            yield at, at + 16


def _listed(gaps: Sequence[str]) -> list[bool]:
    """For each group of digits whether it stands in a long list, such as a vector in JSON."""
    listed: list[bool] = []
    for comma, run in groupby(gaps, key=lambda gap: "," in gap):
        count = len(list(run))
        listed += [comma and count >= _LONG_LIST] * count
    return [*listed, bool(listed and listed[-1])]


def _joined(candidate: str, groups: Sequence[Span], alone: bool) -> Iterator[Span]:
    """The cards that begin with the first of `groups`; in an unusual grouping only if `alone`."""
    sizes: list[int] = []
    total = 0
    for start, end in groups:
        sizes.append(end - start)
        total += end - start
        if total > _LONGEST_CARD:
            return
        grouped = _is_grouping(sizes) or (alone and tuple(sizes) in _UNUSUAL_GROUPINGS)
        if total >= 13 and grouped and is_card(candidate[groups[0][0] : end]):
            yield groups[0][0], end


def _is_grouping(sizes: Sequence[int]) -> bool:
    fours = all(size % 4 == 0 for size in sizes[:-1]) and (sizes[-1] % 4 == 0 or sizes[-1] < 4)
    return len(sizes) == 1 or fours


def _spelled(candidate: str, groups: Sequence[Span]) -> Iterator[Span]:
    """Cards written digit by digit or in pairs, at either end of such a list."""
    for size, run in groupby(groups, key=lambda group: group[1] - group[0]):
        spans = list(run) if size <= 2 else []
        if not 13 <= len(spans) * size <= _LONGEST_SPELLED:
            continue
        for count in range(13 // size, min(len(spans), _LONGEST_CARD // size) + 1):
            for part in (spans[:count], spans[-count:]):
                if is_card(candidate[part[0][0] : part[-1][1]]):
                    yield part[0][0], part[-1][1]


def is_iban(candidate: str) -> bool:
    """An IBAN whose length, format and check digits are right, from a known bank or not."""
    return bool(iban.is_valid(clean(candidate, _GAPS), check_country=False))


def is_phone(candidate: str) -> bool:
    """A dialable number with its country code, `+` in front; behind `00` it must be in use."""
    if candidate.startswith("00"):
        return _is_phone_in("+" + candidate[2:], "ZZ")
    return _is_phone_in(candidate, None)


def is_us_phone(candidate: str) -> bool:
    """A number of the right length in the North American plan."""
    return _is_phone_in(candidate, "US")


def is_local_phone(candidate: str) -> bool:
    """A valid number in at least one large numbering plan. About 12 parses at most."""
    return any(_is_phone_in(candidate, region) for region in _REGIONS)


def _is_phone_in(candidate: str, region: str | None) -> bool:
    try:
        number = phonenumbers.parse(candidate, region)
    except phonenumbers.NumberParseException:
        return False
    # Fictitious exchanges such as 555 are possible but not valid; in text shaped like a
    # telephone number they stand for a person all the same.
    if region in (None, "US"):
        return bool(phonenumbers.is_possible_number(number))
    return bool(phonenumbers.is_valid_number(number))


def is_ipv4(candidate: str) -> bool:
    """An address of one host: no loopback, netmask, multicast or `0.0.0.0`.

    Nor is one of single digits, as `3.2.1.1` numbers a section more often than a host.
    """
    try:
        address = ipaddress.IPv4Address(candidate)
    except ValueError:
        return False
    silent = address.is_loopback or address.is_unspecified or address.is_multicast
    return not silent and len(candidate) > len("1.1.1.1") and not candidate.startswith("255.")


def is_ipv6(candidate: str) -> bool:
    """An address of one host, written with at least four groups and a digit.

    Shorter forms such as `a::b` are more often a scope operator than an address.
    """
    try:
        address = ipaddress.IPv6Address(candidate)
    except ValueError:
        return False
    groups = [group for group in candidate.split(":") if group]
    return len(groups) >= 4 and any(c.isdigit() for c in candidate) and not address.is_multicast


def is_mac(candidate: str) -> bool:
    """A hardware address of one device: neither all zeros nor all ones."""
    digits = set(clean(candidate, " -:").lower())
    return bool(mac.is_valid(candidate)) and digits not in ({"0"}, {"f"})


def is_token(candidate: str) -> bool:
    """A machine-made value: letters and digits mixed, at least 2.5 bits per character."""
    mixed = any(c.isdigit() for c in candidate) and any(c.isalpha() for c in candidate)
    return mixed and _bits_per_character(candidate) >= 2.5


_PLACEHOLDER: Final = re.compile(
    r"""(?ix)
    (?: your | my | our | the | a | an | this | that | some | any | own | new | old | real | actual
      | enter | type | insert | replace | change | set | put | goes | go | here | me | with | in
      | example | sample | placeholder | redacted | dummy | fake | test | demo | default | todo
      | api | app | auth | access | refresh | client | private | secure | strong | super | very
      | pass(?:word|wd|phrase|code)? | pwd | secret | token | key | credentials? | value | string
      | user(?:name)? | admin | root | db | database | service | account | bot | id
      | qwerty | abc | xyz | foo | bar | baz | sk | pk | ghp | proj | ant | live
      | openai | anthropic | aws | azure | github | google | stripe | x{3,} | \*{3,} | \.{3}
      | [_\- .<>]
    )+ (?: [0-9]{0,3} | 1234 | 12345 | 123456 )
    | .*(?:getenv|environ).* | .*\.{3} | .{0,8}\*{3,}.{0,4}
    | <.*> | \$[A-Z_][A-Z0-9_]* | \$\{[^}]*\}? | \$\(.* | %.*% | \{\{?.*
    | 0*1234[5-9]{0,5}0? | 0+ | 1+
    | (?:u?int|float|bytes|string|str|base|sha|utf|md|uuid|hex|char|varchar|latin|aes|hmac|bcrypt)
        [_-]?[0-9]+ (?:[_-].*)?
    """
)

_CODE: Final = re.compile(
    r"""(?x)
    [\[\]{}<>`;] | :: | -> | \$\( | ^\$ | ^\d{1,2}[.)] | :$
    | ^[\w.]*\.[a-z_]+$
    | ^[A-Za-z_][\w.]*\( (?: .*\) (?: \..* )? | [\w.=*-]* )$ | ^\(.*\)?$
    """
)
_MARK_INSIDE: Final = re.compile(r"[^\W_][!@#$?~]+[^\W_]")
_MARKS: Final = re.compile(r"[!@#$?~%^&*+=|]")


def is_secret(candidate: str) -> bool:
    """A value someone chose as a secret: a letter with a digit or mark, or a PIN, no placeholder.

    Words alone are not accepted, as `password: 'required'` is prose. Without a digit it
    takes a mark and ten characters.
    """
    if _PLACEHOLDER.fullmatch(candidate):
        return False
    if candidate.isdigit():
        return len(candidate) >= 4 and len(set(candidate)) > 1
    has_letter = any(c.isalpha() for c in candidate)
    has_digit = any(c.isdigit() for c in candidate)
    is_marked = len(candidate) >= 10 and _MARKS.search(candidate) is not None
    bits = _bits_per_character(candidate) * len(candidate)
    return has_letter and (has_digit or is_marked) and bits >= _MIN_SECRET_BITS


def is_bare_secret(candidate: str) -> bool:
    """`is_secret` for a value without quotes, which must not read as an expression of code."""
    value = candidate.rstrip(".,:!?")
    if _CODE.search(candidate) or not is_secret(value):
        return False
    return any(c.isdigit() for c in value) or _MARK_INSIDE.search(value) is not None


def is_credential(candidate: str) -> bool:
    """Any value but a placeholder: for places where only a credential can stand."""
    return not _PLACEHOLDER.fullmatch(candidate)


_TITLE_WORD: Final = re.compile(
    r"""(?ix)
    board | budgets? | calendar | charter | coordinator | dashboard | development | director
    | documents? | documentation | generator | goals? | guide(?:lines?)? | lead(?:er)? | list
    | log | manage(?:ment|rs?) | names? | overview | owners? | page | plan(?:s|ner|ning)?
    | process | proposals? | reports? | requests? | review | roadmap | schedule | space | status
    | summary | teams? | template | the | track(?:er|ing) | updates? | wh(?:at|ere|ich)
    | wiki | workspace
    """
)


def is_coined_name(candidate: str) -> bool:
    """A capitalised word that is no common part of a title, such as `Management`."""
    return candidate[:1].isupper() and not _TITLE_WORD.fullmatch(candidate)


def _bits_per_character(text: str) -> float:
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())


def _from_stdnum(module: str) -> Validator:
    def valid(candidate: str) -> bool:
        return bool(import_module(f"stdnum.{module}").is_valid(clean(candidate, " .\t\n")))

    return valid


VALIDATORS: Final[Mapping[str, Validator]] = {
    "bare-secret": is_bare_secret,
    "card": is_card,
    "coined-name": is_coined_name,
    "credential": is_credential,
    "iban": is_iban,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "local-phone": is_local_phone,
    "mac": is_mac,
    "phone": is_phone,
    "secret": is_secret,
    "token": is_token,
    "us-phone": is_us_phone,
    **{name: _from_stdnum(module) for name, module in _MODULES.items()},
}
"""What a rule's `validator` may name."""

FINDERS: Final[Mapping[str, Finder]] = {"card": cards_in}
"""Validators that also say where: rules that name one report what it finds, not the match."""
