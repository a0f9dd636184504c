"""The settings of a service group that few will ever need: what WCCP's drafts and real proxies disagree about.

A part of `services`, with the same rules: each field's description is the reference text for operators.
"""

from pydantic import Field

from config.section import Section


class Interop(Section):
    """Points on which WCCP's drafts and real proxies disagree; the defaults suit all proxies that are known."""

    minor_version: int = Field(
        default=1,
        strict=True,
        ge=0,
        le=1,
        description=(
            "Highest version of WCCP spoken: 0 is 2.00, 1 is 2.01. With 1 a proxy that speaks 2.00 is still "
            "answered in 2.00."
        ),
    )
    answer_unusable: bool = Field(
        default=True,
        strict=True,
        description=(
            "Answer a HERE_I_AM with a stale Receive ID or an unsupported method, as 2.01 has it. A proxy that "
            "lost its place comes back only so. `false` answers nothing but a first one, as 2.00 has it."
        ),
    )
    removal_query_takes_receive_id: bool = Field(
        default=True,
        strict=True,
        description=(
            "Give a REMOVAL_QUERY (are you still there?) a Receive ID of its own, as Cisco IOS does. `false` "
            "repeats the last one."
        ),
    )
    accepted_receive_ids: int = Field(
        default=1,
        strict=True,
        ge=1,
        le=4,
        description=(
            "How many of the last Receive IDs sent to a cache count as an echo. The drafts say 1; more keeps "
            "a cache in the group where the network loses packets."
        ),
    )
    priority_defines_service: bool = Field(
        default=False,
        strict=True,
        description="Refuse a cache whose definition of the service differs in nothing but its priority.",
    )
    flush_when_not_listed: bool = Field(
        default=False,
        strict=True,
        description=(
            "Empty the buckets when a REDIRECT_ASSIGN does not list this router, as 2.00 has it. `false` ignores "
            "such a message."
        ),
    )
    bucket_vector_low_bit_first: bool = Field(
        default=False,
        strict=True,
        description=(
            "Order of the bits in the bucket vector that an I_SEE_YOU shows. Only proxies that read the vector "
            "the other way round need `true`."
        ),
    )
