"""The extra fields of the connection form on Airflow below 3.2, made from the provider's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
from flask_babel import lazy_gettext
from wtforms import BooleanField, IntegerField, StringField
from wtforms.validators import Optional

if TYPE_CHECKING:
    from collections.abc import Mapping

# Airflow drops a connection type whose form has a field of any other class, a FloatField for example.
_FIELD_OF = {"boolean": BooleanField, "integer": IntegerField, "number": StringField, "string": StringField}


def widgets(conn_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a form field for each of the ``conn-fields`` of the provider's metadata."""
    return {name: _widget(declared) for name, declared in conn_fields.items()}


def _widget(declared: Mapping[str, Any]) -> Any:
    kind = next(name for name in declared["schema"]["type"] if name != "null")
    options = {} if kind == "boolean" else {"widget": BS3TextFieldWidget()}
    return _FIELD_OF[kind](
        lazy_gettext(declared["label"]),
        description=declared["description"],
        default=declared["schema"].get("default"),
        validators=[Optional()],
        **options,
    )
