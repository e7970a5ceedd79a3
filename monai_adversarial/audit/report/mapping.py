# SPDX-License-Identifier: Apache-2.0
"""Where documents that reviewers of medical software ask for speak of what a row of the plan tests.

A mapping of rows to passages and identifiers, not a statement that anything complies. Identifiers as of MITRE ATLAS
5.6.0, NIST AI 100-2 E2025 (March 2025), OWASP Machine Learning Security Top 10 (2023, draft), Regulation (EU)
2024/1689, and the draft guidance of the FDA of January 7, 2025: docs/audit_mapping.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["DOCUMENTS", "mapping_of"]

FDA = "FDA draft guidance, AI-enabled device software functions (January 2025)"
EU = "EU AI Act, Regulation (EU) 2024/1689"
NIST = "NIST AI 100-2 E2025"
ATLAS = "MITRE ATLAS 5.6.0"
OWASP = "OWASP Machine Learning Security Top 10 (2023, draft)"
DOCUMENTS = (FDA, EU, NIST, ATLAS, OWASP)

_ATTACK = {
    FDA: "cybersecurity: model evasion",
    EU: "Article 15(5): adversarial examples or model evasion",
    OWASP: "ML01:2023 Input Manipulation Attack",
}
_WHITE = {
    **_ATTACK,
    NIST: "NISTAML.022 Evasion (white-box)",
    ATLAS: "AML.T0043.000 White-Box Optimization; AML.T0015 Evade AI Model",
}
_QUERIES = {
    **_ATTACK,
    NIST: "NISTAML.025 Black-box Evasion",
    ATLAS: "AML.T0043.001 Black-Box Optimization; AML.T0015 Evade AI Model",
}
_TRANSFER = {
    **_ATTACK,
    NIST: "NISTAML.022 Evasion (transferability)",
    ATLAS: "AML.T0043.002 Black-Box Transfer; AML.T0015 Evade AI Model",
}
_VARIATION = {
    FDA: "performance validation",
    EU: "Article 15(4): errors, faults or inconsistencies",
}
_CLEAN = {FDA: "performance validation", EU: "Article 15(1) and 15(3): accuracy"}
_BY_KNOWLEDGE = {"white box": _WHITE, "queries": _QUERIES, "another network": _TRANSFER}
_BY_FAMILY = {
    "clean": _CLEAN,
    "noise": _VARIATION,
    "natural variation": _VARIATION,
    "gradient": _WHITE,
    "queries": _QUERIES,
    "transfer": _TRANSFER,
}


def mapping_of(row: Mapping[str, Any], gradients: bool) -> dict[str, str]:
    """Document -> where it speaks of what this row tests; documents that do not are left out.

    Args:
        row: of the plan: what the attacker knows decides, where an attacker is; then the family.
        gradients: whether the target was differentiated: bias fields and geometric attacks of no stated knowledge are
            white-box then, and queries otherwise.
    """
    family = _BY_FAMILY.get(row["family"], _WHITE if gradients else _QUERIES)
    if OWASP not in family:
        return dict(family)
    return dict(_BY_KNOWLEDGE.get(row.get("knowledge", ""), family))
