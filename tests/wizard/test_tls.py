"""What sslyze says of the wizard's TLS; it is installed apart, because its own dependencies are not ours.

The makefile's `wizard-run` installs it by hash from requirements/tls.lock into `.venv/tls`.
Mutation, tried and red: `minimum_version` 1.2 in `server_tls`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))
from device_bench import device_bench
from running_bench import run

SSLYZE = Path(sys.prefix) / "tls" / "bin" / "sslyze"
SCANS = [f"--{each}" for each in ("sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "certinfo", "heartbleed")]
SCANS += [f"--{each}" for each in ("openssl_ccs", "compression", "early_data", "reneg")]
SILENT = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2")
SUITES = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}


@pytest.mark.timeout(280)
def test_sslyze_finds_tls_1_3_the_labels_certificate_and_none_of_its_vulnerabilities(tmp_path: Path):
    assert SSLYZE.exists(), "make wizard-run installs it"

    async def work() -> None:
        async with device_bench(tmp_path) as running:
            place = f"127.0.0.1:{running.device.wizard_port}"
            out = tmp_path / "sslyze.json"
            words = ("--quiet", "--slow_connection", "--mozilla_config=disable", *SCANS, f"--json_out={out}", place)
            scan = await asyncio.create_subprocess_exec(SSLYZE, *words)
            await asyncio.wait_for(scan.wait(), 200)
            (found,) = json.loads(out.read_text())["server_scan_results"]
            assert found["scan_status"] == "COMPLETED", found["connectivity_error_trace"]
            failed = [name for name, each in found["scan_result"].items() if each["status"] == "ERROR"]
            assert failed == []
            result = {name: each["result"] for name, each in found["scan_result"].items()}
            for version in SILENT:
                assert result[f"{version}_cipher_suites"]["accepted_cipher_suites"] == [], version
            accepted = result["tls_1_3_cipher_suites"]["accepted_cipher_suites"]
            assert {each["cipher_suite"]["name"] for each in accepted} <= SUITES
            assert accepted
            assert not result["heartbleed"]["is_vulnerable_to_heartbleed"]
            assert not result["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
            assert not result["tls_compression"]["supports_compression"]
            assert not result["tls_1_3_early_data"]["supports_early_data"]
            assert not result["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
            shown = result["certificate_info"]["certificate_deployments"][0]["received_certificate_chain"]
            assert len(shown) == 1
            assert base64.b64decode(shown[0]["fingerprint_sha256"]).hex() == running.device.stub.fingerprint
            print(f"\nsslyze: {sorted(each['cipher_suite']['name'] for each in accepted)}, nothing below TLS 1.3")
            assert running.port_is_open()

    run(work(), 270.0)
