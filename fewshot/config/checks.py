"""Checks of a configuration before any data is touched. What a constructor declares is checked there."""

from omegaconf import DictConfig, OmegaConf

from fewshot.config.compose import plain, unset
from fewshot.config.settings import Evaluation, Run
from fewshot.errors import UserError
from fewshot.options import check_settings


def check(cfg: DictConfig) -> None:
    """UserError for settings that are missing, wrong, or do not fit together."""
    if missing := unset(OmegaConf.to_container(cfg)):
        what = f"method={cfg.method.name} data={cfg.data.name} shots={cfg.shots}"
        raise UserError(f"no published settings for {what}: set {' '.join(f'{name}=…' for name in missing)}")
    check_settings(Run, plain(cfg))
    trainer, method = cfg.trainer, cfg.method
    if trainer.val_check_interval > trainer.max_steps:
        raise UserError("trainer.val_check_interval is more than trainer.max_steps")
    if (
        method.get("grad_clip_each")
        and method.grad_clip
        and (trainer.micro_batch_size or trainer.devices > 1)
    ):
        raise UserError("method.grad_clip_each=true allows no trainer.micro_batch_size and one device only")
    if method.meta_batch_size % trainer.devices:
        raise UserError("method.meta_batch_size cannot be shared equally by trainer.devices")
    on_images = method.name == "oplstm" and cfg.data.name != "sine"
    if trainer.similarity != "none" and (not on_images or trainer.devices > 1):
        raise UserError("trainer.similarity is for method=oplstm on images, on one device")


def check_evaluation(cfg: DictConfig) -> None:
    check_settings(Evaluation, plain(cfg))
