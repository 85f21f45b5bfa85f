from __future__ import annotations

from jupyter.kernel import Kernel


def test_tab_offers_flags_hosts_and_models(asking: Kernel) -> None:
    assert asking.complete("%dpc_ask --max") == ["--max-tokens"]
    assert set(asking.complete("%%dpc_ask --")) >= {"--host", "--model", "--conversation", "--image", "--raw"}
    assert asking.complete("%dpc_ask -H an") == ["anna"]
    assert asking.complete("%%dpc_ask --host lo") == ["local"]
    assert asking.complete("%dpc_ask -m stub-") == ["stub-1", "stub-2"]
    assert asking.complete("%dpc_ask -H anna -m stub-") == ["stub-1", "stub-2"]
    assert asking.complete("%dpc_host ") == ["anna", "local"]
    assert asking.complete("%dpc_firewall exp") == ["explain"]
    assert asking.complete("%dpc_firewall explain an") == ["anna"]
    assert asking.complete("%dpc_connect an") == ["anna"]


def test_tab_completes_behind_a_colon_as_ollama_names_models(asking: Kernel) -> None:
    assert ":" in asking.value("get_ipython().Completer.splitter.delims")
    asking.ok("%dpc_ask -c talk:one Hello")
    assert asking.complete("%dpc_ask -c talk:o") == ["talk:one"]


def test_tab_before_a_node_runs_starts_none(kernel: Kernel) -> None:
    assert kernel.complete("%dpc_ask -H lo") == ["local"]
    kernel.complete("%dpc_ask -m s")
    assert kernel.ok("%dpc_status").stdout.startswith("No node runs")
