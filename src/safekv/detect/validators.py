"""Checks that a candidate is what its shape suggests, so that a rule may have a loose shape.

Checksums come from python-stdnum, telephone numbers from phonenumbers. A validator
reads one candidate, never the text around it, and has no state.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final, TypeAlias

import phonenumbers
from stdnum import iban, luhn, mac
from stdnum.util import clean

Validator: TypeAlias = Callable[[str], bool]

_MODULES: Final = {
    "au-tfn": "au.tfn",
    "br-cpf": "br.cpf",
    "ca-sin": "ca.sin",
    "cn-ric": "cn.ric",
    "de-idnr": "de.idnr",
    "dk-cpr": "dk.cpr",
    "es-dni": "es.dni",
    "es-nie": "es.nie",
    "fi-hetu": "fi.hetu",
    "fr-nir": "fr.nir",
    "gb-nhs": "gb.nhs",
    "imei": "imei",
    "in-aadhaar": "in_.aadhaar",
    "in-pan": "in_.pan",
    "it-codicefiscale": "it.codicefiscale",
    "kr-rrn": "kr.rrn",
    "mx-curp": "mx.curp",
    "nl-bsn": "nl.bsn",
    "pl-pesel": "pl.pesel",
    "se-personnummer": "se.personnummer",
    "us-itin": "us.itin",
    "us-rtn": "us.rtn",
    "us-ssn": "us.ssn",
}
"""Validator name -> module of python-stdnum whose `is_valid` decides."""

_REGIONS: Final = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "IN", "BR", "AU", "JP", "CN")
"""Where a telephone number without a country code is tried, after its context said it is one."""

_MIN_SECRET_BITS: Final = 12.0
"""Shannon bits of a whole value. `hunter2` has 19.7, `aaaaaaa1` has 4.3."""


def is_card(candidate: str) -> bool:
    """13 to 19 digits with a card's Luhn digit, not all the same."""
    digits = clean(candidate, " -.")
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and bool(luhn.is_valid(digits))


def is_iban(candidate: str) -> bool:
    """An IBAN whose length, format and check digits are right, from a known bank or not."""
    return bool(iban.is_valid(candidate, check_country=False))


def is_phone(candidate: str) -> bool:
    """A dialable number with its country code, `+` in front."""
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
    .*(?: your | example | sample | placeholder | changeme | change_me | redacted | dummy
        | insert | replace | x{4,} | \*{3,} | \.{3} | getenv | environ ).*
    | <.*> | \$\{?.* | %.*% | \{\{?.*
    | (?: my | the | some | user | test | db | admin | root )? [_-]? (?: pass(?:word|wd|phrase)?
        | pwd | secret | token | key | user(?:name)? | admin | root | qwerty | abc )
        [_-]? (?: [0-9]{0,3} | 1234 | 12345 | 123456 )
    | 0*1234[5-9]{0,5}0? | 0+ | 1+
    | (?:u?int|float|bytes|string|str|base|sha|utf|md|uuid|hex|char|varchar|latin|aes|hmac|bcrypt)
        [_-]?[0-9]+ (?:[_-].*)?
    """
)

_CODE: Final = re.compile(r"[()\[\]{}<>$`;]|::|->|^[\w.]*\.[a-z_]+$")


def is_secret(candidate: str) -> bool:
    """A value someone chose as a secret: a letter with a digit or mark, or a PIN, no placeholder.

    Words without a digit are not accepted: `password required` is prose.
    """
    if _PLACEHOLDER.fullmatch(candidate):
        return False
    if candidate.isdigit():
        return len(candidate) >= 4 and len(set(candidate)) > 1
    has_letter = any(c.isalpha() for c in candidate)
    has_digit = any(c.isdigit() for c in candidate)
    bits = _bits_per_character(candidate) * len(candidate)
    return has_letter and has_digit and bits >= _MIN_SECRET_BITS


def is_bare_secret(candidate: str) -> bool:
    """`is_secret` for a value without quotes, which must not read as an expression of code."""
    return not _CODE.search(candidate) and is_secret(candidate.rstrip(".,:!?"))


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
        return bool(import_module(f"stdnum.{module}").is_valid(clean(candidate, " .")))

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
