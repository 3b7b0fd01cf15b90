"""The networks under the learners."""

from fewshot.backbones.base import Body, make_body

__all__ = ["Body", "make_body"]
