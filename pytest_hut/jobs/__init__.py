"""Running a ws2 invocation under its guardrails."""
