"""The studies of privacy read a configuration of this checkout."""

from cdtl_core.config.settings import load_simulation
from simulations.studies import private_settings, private_utility


def test_the_studies_of_privacy_find_their_configuration() -> None:
    assert private_settings.CONFIG == private_utility.CONFIG
    assert load_simulation(private_utility.CONFIG).run.dp.enabled
