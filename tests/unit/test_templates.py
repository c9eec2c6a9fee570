"""
Classification of templates: rendered in the triggerer, read as an XCom, or left to a worker.

The reasons are in the docstring of ``_airflow/templates.py``.
"""

from __future__ import annotations

import jinja2.defaults
import pytest
from jinja2 import nodes

from airflow_provider_manxue._airflow import templates
from airflow_provider_manxue._airflow.templates import (
    WorkerOnlyTemplateError,
    XComPull,
    check_template,
    find_xcom_pull,
)

ALLOWED = [
    "proj_1",
    "{ plain }",
    "{# nothing #}",
    "{{ 'ti.xcom_pull(1)' }}",
    "{{ params.xcom_pull }}",
    "{{ params['id'].lower() | default('x') }}",
    "{{ dag_run.conf.get('connection', 'manxue_default') }}",
    "{{ dag_run['conf']['videos'][0] }}",
    "{{ dag_run.conf[params.key] ~ '_' ~ ds_nodash }}",
    "{{ dag_run.logical_date.isoformat() }}",
    "{% if params.a is defined and params.b not in [1, 2] %}{{ ds }}{% elif 1 %}x{% else %}{{ ts }}{% endif %}",
    "{{ logical_date.add(days=params.n).strftime('%Y%m%d') }}",
    "{{ logical_date.in_timezone('Europe/Berlin') | ts_nodash }}",
    "{{ (data_interval_end - macros.timedelta(hours=1)).strftime('%H') }}",
    "{{ (data_interval_end - data_interval_start).total_seconds() | int }}",
    "{{ logical_date.int_timestamp }}",
    "{{ macros.ds_add(ds, -1) }}",
    "{{ macros.ds_format(ds, '%Y-%m-%d', '%d') }}",
    "{{ macros.ds_add(data_interval_end.date(), 1) }}",
    "{{ macros.ds_format(data_interval_end.date(), '%Y-%m-%d', '%d') }}",
    "{{ (data_interval_end | default(ds)).year }}",
    "{{ (data_interval_end | d(ds)).day }}",
    "{{ macros.datetime.strptime(ds, '%Y-%m-%d').year }}",
    "{{ macros.json.loads(params.text)['a'] }}",
    "{{ params.videos | map(attribute='id') | select('string') | list | first }}",
    "{{ range(3) | list | join(',') }}",
    "{{ [3, -1, 2] | select('odd') | map('abs') | join(',') }}",
    "{{ params.a if params.b else task.task_id + dag.dag_id }}",
]
"""Templates with equal values in the triggerer and on a worker. ``test_template_values.py`` compares them."""


@pytest.mark.parametrize(
    ("template", "pull"),
    [
        ("{{ ti.xcom_pull('a', map_indexes=-1) }}", XComPull("a", "return_value", -1)),
        ("{{task_instance.xcom_pull(map_indexes=0, task_ids='g.a', key='k')}}\n", XComPull("g.a", "k", 0)),
        ("{# why #}{{ ti.xcom_pull('a', map_indexes=-1)['id'] }}", XComPull("a", "return_value", -1, ("id",))),
        ("{{ ti.xcom_pull('a', map_indexes=2)['x'].y[0][-1] }}", XComPull("a", "return_value", 2, ("x", "y", 0, -1))),
    ],
)  # fmt: skip
def test_constant_xcom_pull_becomes_a_reference(template, pull):
    assert find_xcom_pull(template) == pull
    check_template(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ti.xcom_pull('a') }}",
        "{{ ti.xcom_pull('a', map_indexes=None) }}",
        "{{ ti.xcom_pull('a', map_indexes=True) }}",
        "{{ ti.xcom_pull('a', map_indexes=[0]) }}",
        "{{ ti.xcom_pull('a', map_indexes=ti.map_index) }}",
        "{{ ti.xcom_pull(['a'], map_indexes=-1) }}",
        "{{ ti.xcom_pull(map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', key=params.k, map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', dag_id='other', map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', 'other', map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', include_prior_dates=true, map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', default='b', map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', task_ids='b', map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', map_indexes=-1).items }}",
        "{{ ti.xcom_pull('a', map_indexes=-1).append }}",
        "{{ ti.xcom_pull(*params.a, map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', map_indexes=-1, **params.a) }}",
        "{{ ti.xcom_pull('a', map_indexes=-1)[params.k] }}",
        "{{ ti.xcom_pull('a', map_indexes=-1).items() }}",
        "{{ ti.xcom_pull('a', map_indexes=-1).get('id') }}",
        "{{ ti.xcom_pull('a', map_indexes=-1) | upper }}",
        "{{ ti.xcom_pull('a', map_indexes=-1) or 'b' }}",
        "proj_{{ ti.xcom_pull('a', map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', map_indexes=-1) }} ",
        "{% if params.a %}{{ ti.xcom_pull('a', map_indexes=-1) }}{% endif %}",
        "{% set t = ti %}{{ t.xcom_pull('a', map_indexes=-1) }}",
        "{{ ti['xcom_pull']('a', map_indexes=-1) }}",
        "{{ (ti).__class__.xcom_pull(ti, 'a', map_indexes=-1) }}",
        # Native rendering would convert these strings of a reference to numbers.
        "{{ ti.xcom_pull('1_0', map_indexes=-1) }}",
        "{{ ti.xcom_pull('a', map_indexes=-1)['0'] }}",
        "{{ ti.xcom_pull('a', key='{{ ds }}', map_indexes=-1) }}",
    ],
)
def test_other_xcom_pull_needs_a_worker(template):
    assert find_xcom_pull(template) is None
    with pytest.raises(WorkerOnlyTemplateError):
        check_template(template)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ ti.xcom_pull('a') }}", "{{ ti.xcom_pull('a', map_indexes=-1) }}"),
        ("{{ task_instance.xcom_pull(task_ids='a', key='k')['x'] }}",
         "{{ task_instance.xcom_pull('a', key='k', map_indexes=-1) }}"),
        ("{{ ti.xcom_pull('a', none, 'k', true) }}", "{{ ti.xcom_pull('a', key='k', map_indexes=-1) }}"),
        ("{{ ti.xcom_pull('a', none, 'k', true, 1) }}", "{{ ti.xcom_pull(..., map_indexes=-1) }}"),
        ("x_{{ ti.xcom_pull('a', map_indexes=3) }}", "{{ ti.xcom_pull('a', map_indexes=3) }}"),
        ("a{% if ti.xcom_pull(var) %}b{% endif %}", "{{ ti.xcom_pull(..., map_indexes=-1) }}"),
    ],
)  # fmt: skip
def test_error_of_xcom_pull_shows_the_working_form(template, form):
    with pytest.raises(WorkerOnlyTemplateError) as reason:
        check_template(template)
    assert form in str(reason.value)


@pytest.mark.parametrize("template", ALLOWED)
def test_template_with_known_names_is_allowed(template):
    check_template(template)


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{{ var.value.video }}", "'var.value.video'"),
        ("{{ conn.a.login }}", "'conn.a.login'"),
        ("{{ prev_start_date_success }}", "'prev_start_date_success'"),
        ("{{ task_state_store.get('video') }}", "'task_state_store.get'"),
        ("{{ dag_run.conf if inlet_events else '' }}", "'inlet_events'"),
        ("{{ (triggering_asset_events.values() | first | first).extra }}", "'triggering_asset_events.values'"),
        ("{{ ti.run_id }}", "'ti.run_id'"),
        ("{{ dag_run.start_date }}", "'dag_run.start_date'"),
        ("{{ dag_run }}", "'dag_run'"),
        ("{{ task.owner }}", "'task.owner'"),
        ("{{ dag.tags }}", "'dag.tags'"),
        ("{{ params[ti.task_id] }}", "'ti.task_id'"),
        ("{{ params.get('a', default=var.value.b) }}", "'var.value.b'"),
        ("{{ params.a(*ti) }}", "'ti'"),
        ("{{ params.a[var.value.b:] }}", "'var.value.b'"),
        ("{{ {'a': var} }}", "'var'"),
        ("{{ params.a is divisibleby ti.try_number }}", "'ti.try_number'"),
        ("{{ undefined_name }}", "'undefined_name'"),
        ("{{ lipsum() }}", "'lipsum'"),
        ("{{ macros.random() }}", "'macros.random'"),
        ("{{ macros.uuid.uuid4() }}", "'macros.uuid.uuid4'"),
        ("{{ macros.time.time() }}", "'macros.time.time'"),
        ("{{ macros.datetime.now() }}", "'macros.datetime.now'"),
        ("{{ macros.datetime_diff_for_humans(logical_date) }}", "'macros.datetime_diff_for_humans'"),
        ("{{ macros.json }}", "'macros.json'"),
        ("{{ macros.my_plugin.video() }}", "'macros.my_plugin.video'"),
        ("{{ params.videos | random }}", "'random'"),
        ("{{ params.videos | map('random') }}", "'map'"),
        ("{{ params.videos | map(*params.how) }}", "'map'"),
        ("{{ params | attr('id') }}", "'attr'"),
        ("{{ params.videos | selectattr('id', 'filter') }}", "'selectattr'"),
        ("{{ 'upper' is filter }}", "'filter'"),
        ("{{ logical_date.now() }}", "'now'"),
        ("{{ logical_date['age'] }}", "'age'"),
        ("{{ logical_date.diff_for_humans() }}", "'diff_for_humans'"),
        ("{{ [logical_date] | map(attribute='age') | first }}", "a date in a list"),
        ("{{ '%r' % dag_run.logical_date }}", "a date in a list, a dict or a format"),
        ("{{ '%r' | format(dag_run.logical_date) }}", "'format'"),
        ("{{ dict(a=dag_run.logical_date) }}", "a date to a function or method"),
        ("{{ params.get('x', logical_date).age }}", "'age'"),
        ("{{ '{0.age}'.format(logical_date) }}", "a date to a function or method"),
        ("{{ logical_date.strftime('%s') }}", "'strftime'"),
        ("{{ logical_date.strftime(params.form) }}", "'strftime'"),
        ("{{ logical_date.strftime() }}", "'strftime'"),
        ("{{ macros.ds_format(ds, '%Y', output_format='%s') }}", "'ds_format'"),
        ("{{ macros.datetime(2026, 1, 1).timestamp() }}", "'timestamp'"),
        ("{{ logical_date.naive().timestamp() }}", "'timestamp'"),
        ("{% set x = params.id %}{{ x }}", "statement"),
        ("{% for x in params.ids %}{{ x }}{% endfor %}", "statement"),
        ("{% macro m() %}{% endmacro %}", "statement"),
        ("{% include 'a' %}", "statement"),
        ("{% import 'a' as a %}", "statement"),
        ("{% extends 'a' %}", "statement"),
        ("{% filter upper %}a{% endfilter %}", "statement"),
        ("{% with ti = 1 %}{% endwith %}", "statement"),
        ("{% do params.a %}", "valid Jinja"),
        ("{{", "valid Jinja"),
        ("{{ " + "(" * 5000, "nested too deeply"),
    ],
)  # fmt: skip
def test_other_name_needs_a_worker(template, named):
    with pytest.raises(WorkerOnlyTemplateError) as reason:
        check_template(template)
    assert named in str(reason.value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{", "is not valid Jinja"),
        ("{{ " + "(" * 5000, "is nested too deeply"),
        ("{% set x = 1 %}", "has a statement other than {% if %}"),
        ("{{ [logical_date] }}", "uses a date in a list, a dict or a format"),
        ("{{ params[logical_date] }}", "has a date as a subscript"),
        ("{{ logical_date[0] }}", "uses 'a subscript' of a date"),
        ("{{ dict(a=logical_date) }}", "passes a date to a function or method"),
        ("{{ params.a()() }}", "uses 'a call', which is not available in the triggerer"),
        ("{{ logical_date | sum }}", "uses the filter 'sum' on a date"),
    ],
)
def test_error_has_the_reason_for_a_worker(template, reason):
    with pytest.raises(WorkerOnlyTemplateError) as caught:
        check_template(template)
    assert str(caught.value) == reason


def test_expression_of_a_later_jinja_needs_a_worker(monkeypatch):
    tree = nodes.Template([nodes.Output([nodes.ContextReference()])])
    monkeypatch.setattr(templates, "_parse", lambda text: tree)
    with pytest.raises(WorkerOnlyTemplateError, match=r"^has an expression of the type ContextReference$"):
        check_template("{{ ... }}")


def test_names_redefined_by_the_dag_need_a_worker():
    check_template("{{ range(3) | join }}", own_names={"other"}, own_filters={"other"})
    for own in ({"own_names": {"range"}}, {"own_filters": {"join"}}, {"own_filters": {"map"}}):
        with pytest.raises(WorkerOnlyTemplateError):
            check_template("{{ range(3) | map('string') | join }}", **own)


@pytest.mark.parametrize(
    ("known", "decided", "left_to_a_worker"),
    [
        (jinja2.defaults.DEFAULT_FILTERS, templates._FILTERS, {"attr", "random"}),
        (jinja2.defaults.DEFAULT_TESTS, templates._TESTS, {"callable", "filter", "sameas", "test"}),
        (jinja2.defaults.DEFAULT_NAMESPACE, templates._GLOBALS, {"cycler", "joiner", "lipsum", "namespace"}),
    ],
    ids=["filters", "tests", "functions"],
)
def test_every_jinja_filter_and_test_is_classified(known, decided, left_to_a_worker):
    """A later Jinja may add a filter that is not pure."""
    ours = {"ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz"}
    assert set(known) - decided <= left_to_a_worker
    assert not left_to_a_worker & decided
    assert decided - set(known) <= ours
