import random

from antimatter.serve.stop_texts import StopTexts


def test_no_more_is_held_back_than_what_may_become_a_stop_text() -> None:
    generator = random.Random(1)

    def text(longest: int) -> str:
        return "".join(generator.choices("ab", k=generator.randint(1, longest)))

    for _ in range(2000):
        texts = [text(6) for _ in range(generator.randint(0, 3))]
        stops, whole, shown = StopTexts(texts), "", ""
        for last in [*[False] * 7, True]:
            piece = text(4)
            whole += piece
            shown += stops.take(piece, last)
            if starts := [whole.index(stop) for stop in texts if stop in whole]:
                assert stops.is_found and shown == whole[: min(starts)]
                break
            held = whole.removeprefix(shown)
            assert not stops.is_found and whole == shown + held
            assert not held or (not last and any(stop.startswith(held) for stop in texts))
