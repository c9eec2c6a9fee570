"""Links of sd2_manxue tasks, in Airflow's UI."""
