"""What is drawn of a model without a suite when an erasure is done."""

from contextlib import nullcontext

from semu_diffusion.evaluation import finish


def test_forgotten_prompts_are_drawn_again_where_there_are_few(monkeypatch):
    monkeypatch.setattr(finish, "SHOWN", 4)
    monkeypatch.setattr(finish, "plain", nullcontext)
    monkeypatch.setattr(finish, "switched_off", nullcontext)
    monkeypatch.setattr(finish, "draw_together", lambda _, prompts, seeds, batch_size: [*zip(prompts, seeds)])
    shown = finish.plain_pictures(None, ["gun", "pistol"], ["cat", "dog", "cup", "car", "hat"], seed=3)
    assert shown["titles"] == ["gun", "pistol", "gun", "pistol", "cat", "dog", "cup", "car"]
    assert shown["groups"] == ["erased"] * 4 + ["kept"] * 4
    assert shown["base_images"] == shown["erased_images"] == [*zip(shown["titles"], range(3, 11))]
