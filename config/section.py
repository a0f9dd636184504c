"""What all sections of the configuration have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable, no unknown keys, no input echoed in an exception."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
