"""Cohort checks: errors in a hospital's images and labels, found before training."""

from cdtl_core.quality.check import RULES, CohortCheck, as_dict, check_entries, check_list, rules_table
from cdtl_core.quality.rule import Finding, Rule
from cdtl_core.quality.sample import Entry

__all__ = ["RULES", "CohortCheck", "Entry", "Finding", "Rule", "as_dict", "check_entries", "check_list", "rules_table"]
