"""`bridle init`: a commented configuration for given shards, from what they and this machine look like.

manifests -> choose (preset, its sizes adapted to the clips by bridle/config/adapt.py, batch size, schedule) -> words
(YAML in which every value says what was seen and when to change it). What is not measured is called a rule of thumb.
"""

from bridle.init_config.choice import Choice, choose
from bridle.init_config.words import commented

__all__ = ["Choice", "choose", "commented"]
