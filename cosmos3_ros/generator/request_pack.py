"""The token sequence of a request in an action contract and mode."""

from cosmos3_ros.model.sequence_pack import SequencePack

from .action_layout import ActionLayout


def make_pack(
    text_length: int, latent_shape: tuple[int, int, int], layout: ActionLayout, *, patch: int, margin: int,
    base_fps: float,
) -> SequencePack:
    """Return the token sequence of a request.

    :param latent_shape: Frames, height and width of the latents.
    """
    clean = latent_shape[0] if layout.mode == 'inverse_dynamics' else 1
    return SequencePack(
        text_length=text_length, latent_shape=latent_shape, action_rows=layout.rows, fps=layout.rate_hz,
        patch=patch, margin=margin, base_fps=base_fps, clean_frames=clean, clean_rows=layout.clean_rows,
        first_row=layout.first_row)
