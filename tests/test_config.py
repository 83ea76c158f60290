"""Strict parsing, unused bindings and the round trip of the operative configuration."""

import gin
import pytest

from stugan_tf import config
from stugan_tf.errors import InputError


@gin.configurable(module="config_test")
def decay(step=0, rate=0.5):
    return rate**step


@gin.configurable(module="config_test")
def loss(margin=1.0):
    return margin


@gin.configurable(module="config_test", denylist=["images"])
def score(images, scale=1.0):
    return scale * images


@gin.configurable(module="config_test", denylist=["seed"])
def toy_train(
    total_steps=gin.REQUIRED, schedule=decay, loss=None, learning_rate=0.1, layers=(4,), seed=0
):
    if total_steps < 0:
        raise InputError("`total_steps` must not be negative.")
    return total_steps, schedule, loss, learning_rate, layers, seed


@gin.configurable(module="config_test")
class ToyAdam:
    def __init__(self, learning_rate=0.1, beta=0.9, **kwargs):
        self.settings = {"learning_rate": learning_rate, "beta": beta, **kwargs}


@pytest.fixture(autouse=True)
def _clean_configuration():
    yield
    config.parse_gin()


def parse(*lines):
    config.parse_gin(bindings=lines)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_later_files_and_bindings_win(tmp_path):
    first = write(tmp_path / "a.gin", "toy_train.total_steps = 1", "toy_train.learning_rate = 1.0")
    second = write(tmp_path / "b.gin", "toy_train.total_steps = 2", "toy_train.layers = [1]")
    config.parse_gin([first, second], ["config_test.toy_train.layers = [8, 8]"])
    assert toy_train()[:1] + toy_train()[3:] == (2, 1.0, [8, 8], 0)


def test_a_second_parse_forgets_the_first():
    parse("toy_train.total_steps = 1", "toy_train.learning_rate = 1.0")
    parse("toy_train.total_steps = 2")
    assert toy_train()[3] == 0.1


def test_includes_resolve_beside_the_file_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base.gin", "toy_train.total_steps = 1")
    write(tmp_path / "shared.gin", "toy_train.learning_rate = 3.0")
    write(tmp_path / "gin/base.gin", "toy_train.total_steps = 2")
    write(tmp_path / "gin/methods/static.gin", "include '../base.gin'", "include 'shared.gin'")
    config.parse_gin(["gin/methods/static.gin"])
    assert toy_train()[0] == 2
    assert toy_train()[3] == 3.0


def test_modules_of_the_user_are_imported_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    write(
        tmp_path / "own_criteria.py",
        "import gin",
        "@gin.configurable",
        "def my_score(power=1): return power",
    )
    config.parse_gin(
        bindings=["import own_criteria", "my_score.power = 2", "loss.margin = @my_score()"]
    )
    assert loss() == 2
    assert "import own_criteria" in config.operative_config()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toy_trian.total_steps = 1", "no configurable 'toy_trian'. Did you mean 'toy_train'"),
        ("toy_train.total_step = 1", "no parameter 'total_step'. Did you mean 'total_steps'"),
        ("toy_train.zzz = 1", "There are: layers, learning_rate, loss, schedule, total_steps."),
        ("toy_train.seed = 1", "'seed' of 'toy_train' is set by the program"),
        ("toy_train.loss = @los", "no configurable 'los'. Did you mean 'loss'"),
        ("toy_train.loss = [1, (2, @g/los()),\n]", "no configurable 'los'"),
        ("toy_trian:\n  total_steps = 1", "Did you mean 'toy_train'"),
        ("toy_train.total_steps = %STEPS", "macro %STEPS has no value"),
        ("toy_train.total_steps = 1 2", "Expected newline: toy_train.total_steps = 1 2"),
        ("toy_train.total_steps = true", "Failed to parse token 'true'"),
        ("toy_train.total_steps = [1,", "bracket"),
        ("toy_train.total_steps", "Couldn't parse statement"),
        ("include 'quickstrat.gin'", "no gin file 'quickstrat.gin'"),
        ("import no_such_module.criteria", "no module 'no_such_module'"),
        ("from __gin__ import dynamic_registration", "not supported"),
    ],
)
def test_errors_name_the_line_and_what_was_meant(tmp_path, line, message):
    file = write(tmp_path / "bad.gin", "# comment", "loss.margin = 2", line)
    with pytest.raises(InputError) as error:
        config.parse_gin([file])
    assert message in str(error.value)
    assert f"{file}:3: " in str(error.value) or f"{file}:4: " in str(error.value)
    assert "In file" not in str(error.value)


def test_what_only_the_program_can_call_is_refused_with_parentheses():
    with pytest.raises(InputError, match=r"called by the program, .* images.* `@score`"):
        parse("toy_train.loss = @score()")
    parse("toy_train.loss = @score", "toy_train.schedule = @scope/loss()")


def test_errors_in_a_binding_quote_it():
    with pytest.raises(InputError, match=r"--gin_param='los.margin = 1': There is no conf"):
        parse("los.margin = 1")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    write(tmp_path / "quickstart.gin")
    with pytest.raises(InputError) as error:
        config.parse_gin([str(tmp_path / "quickstrat.gin")])
    assert f"looked in {tmp_path}. Did you mean 'quickstart.gin'?" in str(error.value)


def test_a_binding_of_something_never_called_is_reported(tmp_path):
    file = write(tmp_path / "a.gin", "toy_train.total_steps = 1", "g/loss.margin = 2", "N = 3")
    config.parse_gin([file])
    toy_train()
    with pytest.raises(InputError) as error:
        config.check_all_used()
    assert f"{file}:2: g/loss.margin = 2\n" in str(error.value)
    assert f"{file}:3: N = 3\n" in str(error.value)
    assert "total_steps" not in str(error.value)


def test_a_binding_that_the_caller_overrides_is_reported():
    parse("toy_train.total_steps = 1")
    toy_train(total_steps=2)
    with pytest.raises(InputError, match="total_steps = 1"):
        config.check_all_used()


def test_what_only_served_a_replaced_value_is_neither_an_error_nor_kept():
    parse(
        "toy_train.total_steps = 1",
        "toy_train.loss = @loss",
        "loss.margin = 2.0",
        "toy_train.loss = None",
    )
    toy_train()
    config.check_all_used()
    assert "margin" not in config.operative_config()


def test_references_macros_and_defaults_count_as_used():
    parse(
        "STEPS = 10",
        "toy_train.total_steps = %STEPS",
        "decay.rate = 0.9",  # a default argument
        "toy_train.loss = [{'d': @discriminator/loss}]",
        "discriminator/loss.margin = @late/decay",
        "late/decay.step = %DEEP",
        "DEEP = 4",
    )
    toy_train()
    config.check_all_used()


def test_a_scope_that_is_no_prefix_is_unused():
    parse("generator/ToyAdam.beta = 0.5", "gen/ToyAdam.beta = 0.6", "ToyAdam.learning_rate = 1.0")
    with gin.config_scope("generator"):
        assert ToyAdam().settings == {"beta": 0.5, "learning_rate": 1.0}
    with pytest.raises(InputError) as error:
        config.check_all_used()
    assert str(error.value).count(" = ") == 2  # the flag's and the binding's own
    assert "gen/ToyAdam.beta = 0.6" in str(error.value)


def test_the_operative_configuration_parses_back_to_itself(tmp_path):
    parse(
        "STEPS = 10",
        "toy_train.total_steps = %STEPS",
        "toy_train.loss = @discriminator/loss",
        "discriminator/loss.margin = -1e-4",
        "toy_train.layers = [{'width': (64, None)}, 'a string' , True]",
        "generator/ToyAdam.amsgrad = %STEPS",
    )

    def build():
        toy_train()
        with gin.config_scope("generator"):
            ToyAdam()
        config.check_all_used()
        return config.operative_config()

    text = build()
    assert "toy_train.learning_rate = 0.1" in text  # a default
    assert "discriminator/loss.margin = -0.0001" in text  # not called yet
    config.parse_gin([write(tmp_path / "config.gin", text)])
    assert build() == text


def test_gin_does_not_disguise_bad_input():
    parse("toy_train.total_steps = -1")
    with pytest.raises(InputError, match="In call to configurable") as error:
        toy_train()
    assert config.message_of(error.value) == "`total_steps` must not be negative."


def test_a_missing_required_binding_is_bad_input():
    parse()
    with pytest.raises(RuntimeError) as error:
        toy_train()
    assert "`toy_train` not provided in config: ['total_steps']" in config.message_of(error.value)
    assert config.message_of(RuntimeError("another")) is None


def test_a_part_is_configured_on_its_own_and_leaves_no_trace():
    parse("LIMIT = 0.5", "loss.margin = %LIMIT", "decay.rate = 0.4")
    decay()
    assert config.value_of("loss.margin") == 0.5
    assert config.value_of("decay.step") is None
    with config.part({"loss.margin": 2.0, "decay.step": 3}):
        assert loss() == 2.0
        config.check_all_used()  # LIMIT, too, which nothing uses now.
        inside, whole = config.operative_config(), config.operative_config(whole=True)
        assert decay() == pytest.approx(0.4**3)
    assert "loss.margin = 2.0" in inside
    assert "decay" not in inside
    assert "LIMIT" not in inside
    for line in ("loss.margin = %LIMIT", "LIMIT = 0.5", "decay.rate = 0.4"):
        assert line in whole
    assert (loss(), decay()) == (0.5, 1.0)
    assert "loss.margin = %LIMIT" in config.operative_config()
    config.check_all_used()


def test_a_setting_that_is_gone_passes_where_it_did_nothing():
    """Each former run notes it in its config.gin."""
    config.parse_gin(bindings=["Algorithm.length = 1", "sparsify.mask_dense = False"])
    config.check_all_used()
    for binding, advice in (
        ("Algorithm.length = 5", r"Algorithm\.length was removed: write `train"),
        (
            "sparsify.mask_dense = True",
            r"sparsify\.mask_dense was removed: write `GAN\.mask_dense = True`",
        ),
    ):
        with pytest.raises(InputError, match=f"--gin_param=.*: {advice}"):
            config.parse_gin(bindings=[binding])


def test_a_configuration_apart_holds_inside_alone():
    parse("LIMIT = 0.5", "loss.margin = %LIMIT")
    loss()
    before = config.operative_config()
    other = config.Configuration([], ["loss.margin = 3.0", "decay.rate = 0.4"])
    assert config.operative_config() == before
    with other.active():
        assert config.value_of("decay.rate") == 0.4
        assert loss() == 3.0
        with pytest.raises(InputError, match="Nothing uses these bindings"):
            config.check_all_used()
        config.check_all_used(also=["decay"])
    assert loss() == 0.5
    assert config.value_of("decay.rate") is None
    assert config.operative_config() == before
    with other.active(), pytest.raises(RuntimeError):
        gin.bind_parameter("loss.margin", 1.0)  # As everywhere, it is closed once it is read.
    with other.active():
        assert "loss.margin = 3.0" in config.operative_config()  # It was called the time before.
    with pytest.raises(InputError, match="no configurable"), other.active():
        config.parse_gin([], ["unknown.name = 1"])
    config.check_all_used()
    assert loss() == 0.5


def test_the_settings_of_a_name_are_all_that_it_leads_to():
    parse("LIMIT = 0.5", "loss.margin = %LIMIT", "decay.rate = 0.4")
    assert config.settings_of("loss") == {"loss.margin": "%LIMIT", "LIMIT": "0.5"}
    assert config.settings_of("decay") == {"decay.rate": "0.4"}


def test_what_a_run_was_configured_by_was_checked_when_it_began(tmp_path):
    """A reader of a run does not call everything that its training called."""
    own = write(tmp_path / "config.gin", "loss.margin = 3.0")
    config.parse_gin([own], ["decay.rate = 0.4"])
    with pytest.raises(InputError, match=r"decay\.rate = 0\.4") as error:
        config.check_all_used(checked=own)
    assert "margin" not in str(error.value)
    config.parse_gin([own])
    config.check_all_used(checked=own)
    with pytest.raises(InputError, match="margin"):
        config.check_all_used()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "a"}, "a.gin:1: These files are a ring: a.gin includes a.gin. Remove"),
        ({"a": "b", "b": "c", "c": "b"}, "c.gin:1: These files are a ring: b.gin includes c.gin"),
    ],
)
def test_files_that_include_each_other_in_a_ring_are_named(tmp_path, files, message):
    for name, included in files.items():
        (tmp_path / f"{name}.gin").write_text(f"include '{included}.gin'\n")
    for read in (lambda file: config.parse_gin([file]), lambda f: list(config.written([f]))):
        with pytest.raises(InputError) as error:
            read(tmp_path / "a.gin")
        assert message in str(error.value)


def test_a_file_may_be_included_twice(tmp_path):
    (tmp_path / "shared.gin").write_text("STEPS = 5\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.gin").write_text("include 'shared.gin'\n")
    config.parse_gin([tmp_path / "a.gin", tmp_path / "b.gin"])
    assert gin.query_parameter("STEPS/macro.value") == 5


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["A = %A"], "'A = %A'.*: %A needs its own value. Give it another"),
        (["A = [%B, 1]", "B = {'x': %A}"], "%A needs its own value"),
        (["toy_train.loss = @toy_train()"], r"@toy_train\(\) needs its own value"),
    ],
)
def test_a_value_that_needs_itself_is_refused(bindings, message):
    with pytest.raises(InputError, match=message):
        config.parse_gin(bindings=bindings)


def test_a_scope_that_ends_a_ring_is_no_ring():
    config.parse_gin(bindings=["toy_train.loss = @a/toy_train()", "a/toy_train.loss = 3"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("# gelöst\nSTEPS = 5".encode("latin-1"), ":1: this is not UTF-8, the .*: byte 0xf6. Save"),
        ("STEPS = 5".encode("utf-16"), ":1: this is not UTF-8, .* gin files, but UTF-16"),
    ],
)
def test_a_file_in_another_encoding_says_so(tmp_path, data, message):
    (tmp_path / "a.gin").write_bytes(data)
    with pytest.raises(InputError, match=message):
        config.parse_gin([tmp_path / "a.gin"])


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "b.gin").write_bytes("\ufeffSTEPS = 5\n".encode())
    (tmp_path / "a.gin").write_bytes("\ufeffinclude 'b.gin'\n".encode())
    config.parse_gin([tmp_path / "a.gin"])
    assert gin.query_parameter("STEPS/macro.value") == 5
