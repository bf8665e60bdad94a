"""Decide which classes of ESPnet a configuration may name: those in the table, and others with trust."""

from collections.abc import Mapping
from typing import Any

from adaptkit.base import owsm
from adaptkit.base.classes import CLASSES, OF_OWSM_CTC, REFUSED, missing_package
from adaptkit.base.trust import REMEDY, RISKS, is_config_trusted
from adaptkit.errors import ConfigError, listed, nearest


def find_unknown(config: Mapping[str, Any], where: str) -> list[str]:
    """List the sections that name a class outside the table; refuse those that cannot work."""
    named = {section: config[section] for section in CLASSES if config[section] is not None}
    reasons = [
        f"{section}: {option}: {REFUSED[section][option]}"
        for section, option in named.items()
        if option in REFUSED.get(section, {})
    ]
    if config["encoder_conf"].get("ctc_trim"):
        reasons.append("encoder_conf.ctc_trim: it drops frames between blocks, as many as a batch allows")
    if reasons:
        raise ConfigError(f"{where}: {'; '.join(reasons)}; docs/models.md lists what is supported")
    of_ctc = OF_OWSM_CTC if owsm.is_owsm_ctc(config) else {}
    known = {section: {*CLASSES[section], *of_ctc.get(section, ())} for section in CLASSES}
    return [section for section, option in named.items() if option not in known[section]]


def refuse_untrusted(config: Mapping[str, Any], unknown: list[str], where: str) -> None:
    """Refuse classes outside the table unless the configuration is trusted and their packages are there."""
    missing = {section: missing_package(section, config[section]) for section in unknown}
    needed = [
        f"{section}: {config[section]} needs the package {package}, which is not installed: "
        f"'pip install {package}'"
        for section, package in missing.items()
        if package
    ]
    if is_config_trusted():
        if needed:
            raise ConfigError(f"{where}: {'; '.join(needed)}")
        return
    words = [
        f"{section}: {config[section]}{nearest(config[section], CLASSES[section]).replace('; ', ', ')}"
        for section in unknown
    ]
    known = [name for section in unknown for name in CLASSES[section]]
    raise ConfigError(
        f"{where}: {listed(words)}: not among the classes that adaptkit builds itself "
        f"({listed(known) or 'none'}); {RISKS}; {'; '.join([*needed, REMEDY])}"
    )
