"""Tables, figures and comparisons of a study's runs, beside the paper's numbers."""

from fewshot.report.jobs import load
