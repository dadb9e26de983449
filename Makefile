# Few targets. Each does the set-up it needs; re-running is safe.
.PHONY: demo test check soak bench lock clean

run = .venv/bin/python -m

demo: ## the main job, from transactions to guarded decisions
	@tools/setup.sh requirements/train.lock
	@.venv/bin/sentinel demo $(ARGS)

test: ## every test
	@tools/setup.sh requirements/dev.lock redis-server default-jre-headless
	@tools/setup.sh requirements/spark.lock
	@tools/setup_kserve.sh
	$(run) pytest -n 4 --dist worksteal $(ARGS)

check: ## what a change must pass beside the tests: format, lint, types, layers, tidy, docs
	@tools/setup.sh requirements/dev.lock
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(run) pytest -q tests/test_tidy.py tests/test_docs.py

soak: ## the reliability tests, as often as an hour allows
	@tools/setup.sh requirements/dev.lock redis-server
	$(run) pytest -m reliability --tier 2 --timeout 900 -p no:randomly $(ARGS)
	.venv/bin/python tools/reliability_counts.py 2

bench: ## every benchmark, with its limit and its rival beside it
	@tools/setup.sh requirements/dev.lock
	.venv/bin/python benchmarks $(ARGS)

lock: ## compile requirements/*.in to exact versions with hashes
	@tools/setup.sh requirements/dev.lock
	@for name in bootstrap dev train serve spark kserve; do \
	    case $$name in train|serve|spark) agree="-c requirements/dev.lock";; *) agree=;; esac; \
	    .venv/bin/uv pip compile -q requirements/$$name.in $$agree -o requirements/$$name.lock \
	        --python-version 3.11 --universal --generate-hashes --no-annotate \
	        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" || exit 1; \
	done

clean: ## remove what the targets made
	rm -rf .venv build dist demo .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
