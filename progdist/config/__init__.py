"""The configuration of a run: settings, their checks, presets, and JSON.

A preset in `configs/`, or a file anywhere, returns a `Config`;
`--config.base.learning_rate=3e-4` overrides one field. Imports no JAX.
"""

from progdist.config.files import (
    as_begun as as_begun,
    defaults_of_changed as defaults_of_changed,
    differences as differences,
    field_names as field_names,
    from_json as from_json,
    net_from_dict as net_from_dict,
    open_run as open_run,
    to_json as to_json,
)
from progdist.config.presets import load_preset as load_preset
from progdist.config.settings import (
    Anneal as Anneal,
    Config as Config,
    ConfigError as ConfigError,
    Data as Data,
    Distillation as Distillation,
    Evaluation as Evaluation,
    FeatureNetwork as FeatureNetwork,
    Features as Features,
    Metric as Metric,
    Precision as Precision,
    Times as Times,
    Training as Training,
    plan_of as plan_of,
)
