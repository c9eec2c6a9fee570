"""Development tools: a real Airflow for tests, the demo, builds, screenshots and reports."""
