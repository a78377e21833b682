"""The Bicep files hold what docs/operations.md promises: no secret anywhere, the reviewed roles and no others, all that
the service stores its data in. And what a compiler would find, where none runs: names that are not declared, parameters
and outputs that a module does not have.

Each rule is a function from the files to what is amiss; each is tried on files with a fault planted in them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assistants_service.core import names
from assistants_service.core.tools.code_interpreter.interpreters import IDLE
from assistants_service.infra.settings.settings import Settings
from assistants_service.infra.telemetry.semantic_conventions import (
    ATTRIBUTES,
    COUNTERS,
    HISTOGRAMS,
    SPANS,
    STORAGE_OPERATIONS,
    STORAGE_RETRIES,
    TOKENS,
)
from bicep_files import Declaration, File, at, literal, objects, properties, read_all, references, text, walk

FOLDER = Path(__file__).resolve().parents[2] / "bicep"
Files = dict[str, File]

# Of the verified modules, what is passed to them and read from them: looked up in their sources at these versions.
VERIFIED = "br/public:avm/res/"
MODULES = {
    "app/managed-environment:0.16.0": (
        "name location tags zoneRedundant infrastructureSubnetResourceId internal publicNetworkAccess workloadProfiles"
        " appLogsConfiguration diagnosticSettings enableTelemetry",
        "resourceId",
    ),
    "cognitive-services/account:0.14.1": (
        "name location tags kind sku customSubDomainName disableLocalAuth restrictOutboundNetworkAccess"
        " publicNetworkAccess networkAcls deployments privateEndpoints diagnosticSettings enableTelemetry",
        "name",
    ),
    "insights/component:0.8.0": (
        "name location tags kind applicationType workspaceResourceId enableTelemetry",
        "connectionString",
    ),
    "key-vault/vault:0.13.3": (
        "name location tags sku enableRbacAuthorization enableVaultForDeployment enableVaultForTemplateDeployment"
        " enableVaultForDiskEncryption softDeleteRetentionInDays enablePurgeProtection publicNetworkAccess networkAcls"
        " secrets privateEndpoints diagnosticSettings enableTelemetry",
        "name uri",
    ),
    "managed-identity/user-assigned-identity:0.6.0": (
        "name location tags enableTelemetry",
        "resourceId principalId clientId",
    ),
    "network/private-dns-zone:0.8.1": ("name tags virtualNetworkLinks enableTelemetry", "resourceId"),
    "network/virtual-network:0.7.0": (
        "name location tags addressPrefixes subnets enableTelemetry",
        "resourceId subnetResourceIds",
    ),
    "operational-insights/workspace:0.16.1": (
        "name location tags skuName dataRetention enableTelemetry",
        "resourceId",
    ),
    "storage/storage-account:0.32.0": (
        "name location tags kind skuName accessTier allowSharedKeyAccess defaultToOAuthAuthentication"
        " allowBlobPublicAccess minimumTlsVersion supportsHttpsTrafficOnly publicNetworkAccess networkAcls blobServices"
        " queueServices managementPolicyRules privateEndpoints diagnosticSettings enableTelemetry",
        "name",
    ),
    "web/serverfarm:0.7.0": (
        "name location tags kind reserved skuName skuCapacity zoneRedundant enableTelemetry",
        "resourceId",
    ),
    "web/site:0.23.1": (
        "name location tags kind serverFarmResourceId managedIdentities keyVaultAccessIdentityResourceId httpsOnly"
        " clientAffinityEnabled publicNetworkAccess virtualNetworkSubnetResourceId outboundVnetRouting"
        " basicPublishingCredentialsPolicies siteConfig functionAppConfig configs diagnosticSettings enableTelemetry",
        "defaultHostname resourceId",
    ),
}

ROLES = {
    "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd": "Cognitive Services OpenAI User",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    # https://learn.microsoft.com/azure/container-apps/sessions-usage, and its id in Azure/bicep-registry-modules,
    # avm/res/app/session-pool/main.bicep
    "0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0": "Azure ContainerApps Session Executor",
    "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
    "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": "Key Vault Secrets Officer",
}
# (role, on what, to whom): a change here is a change of who may do what.
REVIEWED = {
    ("Storage Blob Data Contributor", "roles.bicep:storage", "servicePrincipalId"),
    ("Storage Queue Data Contributor", "roles.bicep:storage", "servicePrincipalId"),
    ("Key Vault Secrets User", "roles.bicep:vault", "servicePrincipalId"),
    ("Cognitive Services OpenAI User", "openai-role.bicep:account", "servicePrincipalId"),
    ("Azure ContainerApps Session Executor", "code-interpreter.bicep:pool", "servicePrincipalId"),
    ("Storage Blob Data Owner", "worker-functions.bicep:hostAccount", "servicePrincipalId"),
    ("Storage Blob Data Contributor", "roles.bicep:storage", "personId"),
    ("Storage Queue Data Contributor", "roles.bicep:storage", "personId"),
    ("Key Vault Secrets Officer", "roles.bicep:vault", "personId"),
}

# Settings that are read by the platform or by libraries, not by the service.
PLATFORM = {
    "APPLICATIONINSIGHTS_CONNECTION_STRING",  # Application Insights
    "AZURE_CLIENT_ID",  # azure-identity: which of the app's identities
    "AzureWebJobsStorage__accountName",  # Azure Functions: the host's storage, by identity
    "AzureWebJobsStorage__credential",
    "AzureWebJobsStorage__clientId",
    "WORK__queueServiceUri",  # Azure Functions: the connection of the queue trigger, by identity
    "WORK__credential",
    "WORK__clientId",
    "SCM_DO_BUILD_DURING_DEPLOYMENT",  # App Service
    "WEBSITES_CONTAINER_STOP_TIME_LIMIT",
    "WEBSITE_HEALTHCHECK_MAXPINGFAILURES",
}
# These name a place, and give no access.
NO_SECRET = {"APPLICATIONINSIGHTS_CONNECTION_STRING"}

BUILT_IN = {"az", "sys"}  # namespaces


def verified(use: Declaration) -> str:
    """The name and version of a verified module, or nothing."""
    return use.source.removeprefix(VERIFIED) if use.source.startswith(VERIFIED) else ""


def uses(files: Files, module: str) -> Iterator[tuple[str, Declaration]]:
    """Every use of a verified module, whatever its version."""
    for name, file in files.items():
        for use in file.of("module"):
            if verified(use).startswith(f"{module}:"):
                yield f"{name}:{use.name}", use


# --- what a compiler would find -------------------------------------------------------------------------------------


def syntax(files: Files) -> Iterator[str]:
    for name, file in files.items():
        yield from (f"{name}, {error}" for error in file.errors)


def descriptions(files: Files) -> Iterator[str]:
    for name, file in files.items():
        for each in (*file.of("param"), *file.of("output")):
            if not each.description.strip():
                yield f"{name}: {each.kind} {each.name} has no description"


def declared_names(files: Files) -> Iterator[str]:
    """Whatever is used is declared, and what is declared is used."""
    for name, file in files.items():
        used: set[str] = set()
        for each in (*file.declared.values(), *file.outputs.values()):
            for part in each.node.named_children[1:]:
                used |= set(references(part))
        for unknown in sorted(used - set(file.declared) - BUILT_IN):
            yield f"{name}: nothing declares {unknown}"
        for idle in file.declared.values():
            if idle.kind in ("param", "var") and idle.name not in used:
                yield f"{name}: nothing uses {idle.kind} {idle.name}"


def module_parameters(files: Files) -> Iterator[str]:
    for name, file in files.items():
        for use in file.of("module"):
            passed = set(properties(at(use.body, "params")))
            if module := verified(use):
                if module not in MODULES:
                    yield f"{name}: {module} is not reviewed"
                    continue
                unknown, missing = passed - set(MODULES[module][0].split()), {"name"} - passed
            elif use.source in files:
                wanted = {each.name: each for each in files[use.source].of("param")}
                unknown = passed - set(wanted)
                missing = {each for each in wanted if wanted[each].value is None} - passed
            else:
                yield f"{name}: there is no {use.source}"
                continue
            yield from (f"{name}: {use.source} has no parameter {each}" for each in sorted(unknown))
            yield from (f"{name}: {use.source} is not given {each}" for each in sorted(missing))


def module_outputs(files: Files) -> Iterator[str]:
    for name, file in files.items():
        for node in walk(file.root):
            inner = node.named_children[0] if node.type == "member_expression" else None
            if inner is None or inner.type != "member_expression" or text(inner.named_children[1]) != "outputs":
                continue
            symbol, output = text(inner.named_children[0]).rstrip("!"), text(node.named_children[1])
            use = file.declared.get(symbol)
            if use is None or use.kind != "module":
                yield f"{name}: {symbol} is no module"
                continue
            module = verified(use)
            there = MODULES.get(module, ("", ""))[1].split() if module else files[use.source].outputs
            if output not in there:
                yield f"{name}: {use.source} has no output {output}"


# --- no secrets -----------------------------------------------------------------------------------------------------


def no_keys(files: Files) -> Iterator[str]:
    """No key is asked for, and none is written down."""
    asks = re.compile(r"\blist[A-Z]\w*\(|\blist\(|(primary|secondary)(AccessKey|ConnectionString)|instrumentationKey")
    holds = re.compile(r"AccountKey=|SharedAccess|Password=|(?<![\w-])sk-\w{8}", re.IGNORECASE)
    for name, file in files.items():
        for number, line in enumerate(text(file.root).splitlines(), 1):
            code = re.sub(r"(?<!:)//.*", "", line)
            if found := asks.search(code) or holds.search(code):
                yield f"{name}, line {number}: {found[0]}"


def secrets_stay_secret(files: Files) -> Iterator[str]:
    """A secure parameter goes into secure parameters and into secrets of the vault, and nowhere else."""
    for name, file in files.items():
        secure = {param.name for param in file.of("param") if param.secure}
        everything = (*file.declared.values(), *file.outputs.values())
        anywhere = Counter(
            used for each in everything for part in each.node.named_children[1:] for used in references(part)
        )
        safely: Counter[str] = Counter()
        for use in file.of("module"):
            safe = {"secrets"} if verified(use).startswith("key-vault/vault:") else set()
            if use.source in files:
                safe = {param.name for param in files[use.source].of("param") if param.secure}
            for key, value in properties(at(use.body, "params")).items():
                safely.update(references(value) if key in safe else ())
        for secret in sorted(secure):
            if anywhere[secret] > safely[secret]:
                yield f"{name}: {secret} goes where it can be read"
            value = file.declared[secret].value
            if value is not None and text(value) != "newGuid()":
                yield f"{name}: {secret} has a default"


def keys_stay(files: Files) -> Iterator[str]:
    """A first key that is in the vault is not made anew by a later deployment: its callers would be shut out."""
    use = files["main.bicep"].declared["vault"]
    given = properties(at(use.body, "params"))["firstKey"]
    if not text(given).startswith("empty(knownVault) ? ") or not text(given).endswith(" : firstKey"):
        yield "main.bicep: a key that is in the vault is changed"
    parameters = json.loads((files["main.bicep"].path.parent / "main.parameters.json").read_text())["parameters"]
    if parameters.get("knownVault") != {"value": "${AZURE_KEY_VAULT_NAME=}"}:
        yield "main.parameters.json: does not tell of the vault"


def outputs_tell_no_secret(files: Files) -> Iterator[str]:
    suspicious = re.compile(r"key|secret|password|token|connectionString", re.IGNORECASE)
    allowed = {"connectionString", "AZURE_KEY_VAULT_NAME"}  # of Application Insights; the vault's name
    for name, file in files.items():
        for output in file.of("output"):
            if output.secure or (suspicious.search(output.name) and output.name not in allowed):
                yield f"{name}: output {output.name}"


def settings_of(files: Files) -> Iterator[tuple[str, str]]:
    """Where settings are set, and which: the objects that are put together in `settings`, `properties` of a site's
    app settings, and the environment of a container."""
    for name, file in files.items():
        for each in file.of("var"):
            if each.name.lower().endswith("settings") or each.name in ("all", "defaults"):
                for found in objects(each.value):
                    yield from ((name, key) for key in properties(found))
        for use in file.of("module"):
            for config in at(use.body, "params", "configs").named_children if at(use.body, "params", "configs") else ():
                for found in objects(at(config, "properties")):
                    yield from ((name, key) for key in properties(found))
        for resource in file.of("resource"):
            for node in walk(resource.node):
                if node.type == "object_property" and text(node.named_children[0]) == "env":
                    for found in objects(node.named_children[-1]):
                        yield name, str(literal(at(found, "name")))


def settings_exist(files: Files) -> Iterator[str]:
    """Each is one of the service's, or of the platform's; none is a secret, as those are referred to only."""
    service = {name.upper(): field for name, field in Settings.model_fields.items()}
    for name, setting in settings_of(files):
        if setting in service and setting not in NO_SECRET:
            if "Secret" in str(service[setting].annotation) or setting == "PROVIDERS":
                yield f"{name}: {setting} is a secret"
        elif setting not in PLATFORM | NO_SECRET:
            yield f"{name}: there is no setting {setting}"
    for name in ("api.bicep", "worker-functions.bicep", "main.bicep"):
        if name in files and not [setting for file, setting in settings_of(files) if file == name]:
            yield f"{name}: no settings were found"


def no_stand_in(files: Files) -> Iterator[str]:
    """Where money is paid, nothing answers in the place of a model that was not configured: API and worker alike."""
    shared = objects(files["main.bicep"].declared["settings"].value)
    if not any(literal(at(each, "OFFLINE_MODEL")) == "off" for each in shared if "OFFLINE_MODEL" in properties(each)):
        yield "main.bicep: the offline model is not off"


def secret_settings_are_references(files: Files) -> Iterator[str]:
    """What App Service and Container Apps get in a secret's place."""
    for name in ("api.bicep", "worker-functions.bicep"):
        value = files[name].declared["references"].value
        if value is None or "'@Microsoft.KeyVault(VaultName=${vaultName};SecretName=" not in text(value):
            yield f"{name}: secrets are no references"
    secrets = at(files["worker-container.bicep"].declared["worker"].body, "properties", "configuration", "secrets")
    if secrets is None or set(properties(next(objects(secrets)))) != {"name", "keyVaultUrl", "identity"}:
        yield "worker-container.bicep: secrets are no references"


# --- who gets in ----------------------------------------------------------------------------------------------------


def strict(files: Files) -> Iterator[str]:
    """Keys are off, TLS is 1.2 at least, nothing is public that need not be."""
    wanted: dict[str, dict[tuple[str, ...], tuple[object, ...]]] = {
        "storage/storage-account": {
            ("allowSharedKeyAccess",): (False,),
            ("allowBlobPublicAccess",): (False,),
            ("minimumTlsVersion",): ("TLS1_2", "TLS1_3"),
            ("supportsHttpsTrafficOnly",): (True,),
        },
        "web/site": {
            ("httpsOnly",): (True,),
            ("siteConfig", "minTlsVersion"): ("1.2", "1.3"),
            ("siteConfig", "scmMinTlsVersion"): ("1.2", "1.3"),
            ("siteConfig", "ftpsState"): ("Disabled",),
            ("basicPublishingCredentialsPolicies",): (
                [{"name": "ftp", "allow": False}, {"name": "scm", "allow": False}],
            ),
        },
        "key-vault/vault": {("enableRbacAuthorization",): (True,)},
        "cognitive-services/account": {("disableLocalAuth",): (True,)},
    }
    for module, rules in wanted.items():
        found = list(uses(files, module))
        if not found:
            yield f"{module} is not used"
        for where, use in found:
            for path, allowed in rules.items():
                value = literal(at(use.body, "params", *path))
                if value not in allowed:
                    yield f"{where}: {'.'.join(path)} is {value}"
        for where, use in found:
            if at(use.body, "params", "roleAssignments") is not None:
                yield f"{where}: roles are given in roles.bicep"
    for name, file in files.items():
        for resource in file.of("resource"):
            kind = resource.source.partition("@")[0]
            if not resource.existing and kind not in (
                "Microsoft.Resources/resourceGroups",
                "Microsoft.Authorization/roleAssignments",
                "Microsoft.App/containerApps",
                "Microsoft.App/sessionPools",
                "Microsoft.Insights/actionGroups",
                "Microsoft.Insights/autoscaleSettings",
                "Microsoft.Insights/metricAlerts",
                "Microsoft.Insights/scheduledQueryRules",
                "Microsoft.Network/privateEndpoints",
                "Microsoft.Network/privateEndpoints/privateDnsZoneGroups",
                "Microsoft.OperationalInsights/workspaces/savedSearches",
            ):
                yield f"{name}: {kind} is not reviewed"


def roles(files: Files) -> Iterator[str]:
    given: set[tuple[str, str, str]] = set()
    for name, file in files.items():
        for resource in file.of("resource"):
            if resource.source.startswith("Microsoft.Authorization/roleAssignments@"):
                who, what = (at(resource.body, "properties", key) for key in ("principalId", "roleDefinitionId"))
                scope = at(resource.body, "scope")
                role = what.named_children[-1].named_children[-1] if what is not None else None
                value = file.declared[text(role)].value if role is not None and text(role) in file.declared else role
                place = f"{name}:{text(scope)}" if scope is not None else f"{name}: the whole group"
                guid = str(literal(value))
                given.add((ROLES.get(guid, guid), place, text(who) if who is not None else ""))
    yield from (f"not reviewed: {each}" for each in sorted(given - REVIEWED))
    yield from (f"not given: {each}" for each in sorted(REVIEWED - given))


# --- what the service stores its data in ----------------------------------------------------------------------------


def containers_and_queues(files: Files) -> Iterator[str]:
    storage = files["storage.bicep"]
    for var, wanted in (
        ("containers", set(names.CONTAINERS)),
        ("queues", {names.WORK, names.DEAD_LETTERS, names.POISON}),
    ):
        made = literal(storage.declared[var].value)
        assert isinstance(made, list)
        yield from (f"{var}: {each} is missing" for each in sorted(wanted - set(made)))
        yield from (f"{var}: {each} is not used" for each in sorted(set(made) - wanted))
    parameters = properties(at(storage.declared["account"].body, "params"))
    if "for container in containers" not in text(parameters["blobServices"]):
        yield "the containers are not created"
    if "for queue in queues" not in text(parameters["queueServices"]):
        yield "the queues are not created"


def lifecycle(files: Files) -> Iterator[str]:
    """Exactly what core/names.py says: a rule too many would delete data."""
    rules: Any = literal(at(files["storage.bicep"].declared["account"].body, "params", "managementPolicyRules"))
    blobs = {names.STREAMS: "appendBlob", names.IDEMPOTENCY: "blockBlob"}
    wanted = [
        {
            "name": container,
            "enabled": True,
            "type": "Lifecycle",
            "definition": {
                "filters": {"blobTypes": [blobs[container]], "prefixMatch": [f"{container}/"]},
                "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": days}}},
            },
        }
        for container, days in names.KEPT_DAYS.items()
    ]
    if rules != wanted:
        yield f"the rules are {json.dumps(rules)}"


def parameter_file(files: Files) -> Iterator[str]:
    """main.parameters.json gives main.bicep what it needs."""
    given = json.loads((files["main.bicep"].path.parent / "main.parameters.json").read_text())["parameters"]
    wanted = {param.name: param for param in files["main.bicep"].of("param")}
    yield from (f"main.bicep has no parameter {each}" for each in sorted(set(given) - set(wanted)))
    yield from (
        f"main.parameters.json lacks {each}"
        for each, param in wanted.items()
        if each not in given and param.value is None
    )


def queries(files: Files) -> Iterator[str]:
    """queries.json asks for metrics that there are, by attributes that they have; names of tables and columns are those
    of Log Analytics. Of requests Application Insights keeps the spans: their metric loses its route there."""
    metrics = {
        *(metric.name for metric in (*COUNTERS.values(), *HISTOGRAMS.values())),
        *(span.duration for what, span in SPANS.items() if what != "request"),
        *(TOKENS.name, STORAGE_RETRIES.name, STORAGE_OPERATIONS.name),
    }
    content = json.loads((files["alerts.bicep"].path.parent / "queries.json").read_text())
    for query in (*content["alerts"], *content["queries"]):
        whole = "\n".join(query["query"])
        asked = re.findall(r"Name == '([^']+)'", whole)
        asked += re.findall(r"'([^']+)'", " ".join(re.findall(r"Name in \(([^)]*)\)", whole)))
        yield from (f"{query['name']}: no metric {each}" for each in sorted(set(asked) - metrics))
        attributes = set(re.findall(r"Properties\['([^']+)'\]", whole))
        yield from (f"{query['name']}: no attribute {each}" for each in sorted(attributes - set(ATTRIBUTES.values())))
        if not asked and "AppRequests" not in whole:
            yield f"{query['name']}: asks for nothing"
    wanted = {"name", "title", "help", "severity", "every", "window", "query"}
    yield from (f"alert {each['name']} is not whole" for each in content["alerts"] if set(each) != wanted)


def no_model_in_silence(files: Files) -> Iterator[str]:
    """A name of an embedding model that no account would have ends the deployment, instead of being left out."""
    for each in files["main.bicep"].declared.values():
        used = {name for part in each.node.named_children[1:] for name in references(part)}
        if "embeddingModelName" in used and not (
            " : fail(" in " ".join(text(each.node).split()) and "withModels" in used
        ):
            yield f"{each.name} takes embeddingModelName as it is"


def autoscale_ends(files: Files) -> Iterator[str]:
    """What is on can be turned off: a deployment removes nothing that an earlier one made."""
    scale = files["api.bicep"].declared["autoscale"]
    condition = text(scale.node).partition("= if (")[2].partition(")")[0]
    enabled = at(scale.body, "properties", "enabled")
    if condition != "maxInstances > 0" or enabled is None or text(enabled) != "maxInstances > instances":
        yield f"autoscale is made if {condition}, and on if {text(enabled) if enabled else None}"


def session_pool(files: Files) -> Iterator[str]:
    """As Microsoft.App/sessionPools 2025-07-01 takes it (Azure/azure-rest-api-specs, SessionPools.json), with the
    bounds of https://learn.microsoft.com/azure/container-apps/session-pool: code reaches no network, and no session is
    made unless an operator wants to pay for it. A session outlives the worker's interest in it, or variables would be
    lost that the worker believes to be there."""
    pool = literal(at(files["code-interpreter.bicep"].declared["pool"].body, "properties"))
    wanted = {
        "containerType": "PythonLTS",
        "poolManagementType": "Dynamic",
        "scaleConfiguration": {"maxConcurrentSessions": None},
        "dynamicPoolConfiguration": {
            "lifecycleConfiguration": {"lifecycleType": "Timed", "cooldownPeriodInSeconds": None}
        },
        "sessionNetworkConfiguration": {"status": "EgressDisabled"},
    }
    if pool != wanted:
        yield f"the pool is {json.dumps(pool)}"
    main = files["main.bicep"]
    name = text(at(main.declared["codeInterpreter"].body, "params", "name") or main.root)
    if not re.fullmatch(r"'[a-z][a-z0-9]*\$\{token\}'", name):
        yield f"the pool is named {name[:40]}"
    bounds = {name: _bounds(main.declared[name]) for name in ("codeSessions", "codeCooldown")}
    if bounds["codeSessions"] != (0, 0, 600):
        yield f"sessions: {bounds['codeSessions']}"
    least, cooldown, most = bounds["codeCooldown"]
    if (least, most) != (300, 3600) or cooldown <= IDLE:
        yield f"cool-down: {bounds['codeCooldown']}"


def _bounds(param: Declaration) -> tuple[int, int, int]:
    """Least, default and most."""
    least, most = (literal(param.decorators[name][0]) for name in ("minValue", "maxValue"))
    default = literal(param.value)
    assert isinstance(least, int) and isinstance(default, int) and isinstance(most, int)
    return least, default, most


def interpreters_fit(files: Files) -> Iterator[str]:
    """The interpreters of a container, and as much again for the worker, fit into its memory."""
    container = files["worker-container.bicep"]
    defaults: Any = literal(next(objects(container.declared["all"].value)))
    (memory,) = re.findall(r"memory: '(\d+)Gi'", text(container.root))
    most = int(defaults["CODE_INTERPRETER_PROCESSES"]) * int(defaults["CODE_INTERPRETER_MEMORY_MB"])
    if most * 2 > int(memory) * 1024:
        yield f"interpreters may use {most} MiB of {memory} GiB"


Rule = Callable[[Files], Iterator[str]]
RULES: list[Rule] = [
    syntax,
    descriptions,
    declared_names,
    module_parameters,
    module_outputs,
    no_keys,
    secrets_stay_secret,
    keys_stay,
    outputs_tell_no_secret,
    settings_exist,
    no_stand_in,
    secret_settings_are_references,
    strict,
    roles,
    containers_and_queues,
    lifecycle,
    parameter_file,
    queries,
    no_model_in_silence,
    autoscale_ends,
    session_pool,
    interpreters_fit,
]


@pytest.fixture(scope="module")
def files() -> Files:
    return read_all(FOLDER)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_files_hold_to(rule: Rule, files: Files) -> None:
    assert len(files) > 5
    assert list(rule(files)) == []


# A fault in place of what is there, and what is said of it.
PLANTED: list[tuple[Rule, str, str, str, str]] = [
    (syntax, "api.bicep", "httpsOnly: true", "httpsOnly: : true", "api.bicep, line"),
    (descriptions, "api.bicep", "@description('Region.')\n", "", "param location has no description"),
    (descriptions, "api.bicep", "@description('Address of the app.')\n", "", "output url has no description"),
    (
        declared_names,
        "storage.bicep",
        "workspaceResourceId: workspaceId",
        "workspaceResourceId: workspace",
        "declares workspace",
    ),
    (
        declared_names,
        "storage.bicep",
        "for queue in queues: { name: queue }",
        "for q in queues: { name: queue }",
        "declares queue",
    ),
    (declared_names, "openai.bicep", "capacity: capacity }", "capacity: 50 }", "uses param capacity"),
    (module_parameters, "main.bicep", "    days: logDays\n", "", "is not given days"),
    (module_parameters, "main.bicep", "    days: logDays\n", "    days: logDays\n    weeks: 2\n", "no parameter weeks"),
    (module_parameters, "api.bicep", "    httpsOnly: true\n", "    httpOnly: true\n", "no parameter httpOnly"),
    (module_parameters, "api.bicep", "web/site:0.23.1", "web/site:0.24.0", "web/site:0.24.0 is not reviewed"),
    (module_parameters, "main.bicep", "'vault.bicep'", "'vaults.bicep'", "there is no vaults.bicep"),
    (module_outputs, "main.bicep", "storage.outputs.blobUrl", "storage.outputs.blobUri", "no output blobUri"),
    (module_outputs, "api.bicep", "site.outputs.defaultHostname", "site.outputs.hostname", "no output hostname"),
    (no_keys, "roles.bicep", "scope: storage\n", "scope: storage.listKeys().keys[0].value\n", "listKeys("),
    (
        no_keys,
        "monitoring.bicep",
        "insights.outputs.connectionString",
        "insights.outputs.instrumentationKey",
        "instrumentationKey",
    ),
    (no_keys, "main.bicep", "STORAGE: storage.outputs.blobUrl", "STORAGE: 'AccountName=a;AccountKey=x'", "AccountKey="),
    (secrets_stay_secret, "main.bicep", "LOG_FORMAT: 'json'", "LOG_FORMAT: firstKey", "firstKey goes where"),
    (secrets_stay_secret, "vault.bicep", "name: name\n", "name: firstKey\n", "firstKey goes where"),
    (secrets_stay_secret, "vault.bicep", "@secure()\n", "", "firstKey goes where"),
    (
        secrets_stay_secret,
        "main.bicep",
        "@secure()\nparam firstKey string",
        "@secure()\nparam firstKey string = 'x'",
        "has a default",
    ),
    (secrets_stay_secret, "vault.bicep", "string = vault.outputs.uri", "string = firstKey", "firstKey goes where"),
    (keys_stay, "main.bicep", "empty(knownVault) ?", "length(firstKey) < 43 ?", "is changed"),
    (keys_stay, "main.parameters.json", "AZURE_KEY_VAULT_NAME=", "VAULT=", "does not tell"),
    (outputs_tell_no_secret, "vault.bicep", "output uri string", "output apiKey string", "output apiKey"),
    (settings_exist, "api.bicep", "HOST: '0.0.0.0'", "HOSTS: '0.0.0.0'", "no setting HOSTS"),
    (settings_exist, "main.bicep", "STORAGE: storage.outputs.blobUrl", "API_KEYS: 'default:x'", "API_KEYS is a secret"),
    (settings_exist, "worker-container.bicep", "SHUTDOWN_GRACE: '590'", "GRACE: '590'", "no setting GRACE"),
    (no_stand_in, "main.bicep", "OFFLINE_MODEL: 'off'", "OFFLINE_MODEL: 'on'", "the offline model is not off"),
    (no_stand_in, "main.bicep", "OFFLINE_MODEL: 'off'", "LOG_LEVEL: 'info'", "the offline model is not off"),
    (settings_exist, "worker-functions.bicep", "WORK__clientId", "WORK__clientID", "no setting WORK__clientID"),
    (
        secret_settings_are_references,
        "api.bicep",
        "'@Microsoft.KeyVault(",
        "'(",
        "api.bicep: secrets are no references",
    ),
    (
        secret_settings_are_references,
        "worker-container.bicep",
        "keyVaultUrl: '",
        "value: '",
        "secrets are no references",
    ),
    (
        strict,
        "storage.bicep",
        "allowSharedKeyAccess: false",
        "allowSharedKeyAccess: true",
        "allowSharedKeyAccess is True",
    ),
    (strict, "worker-functions.bicep", "    allowSharedKeyAccess: false\n", "", "allowSharedKeyAccess is None"),
    (strict, "storage.bicep", "'TLS1_2'", "'TLS1_0'", "minimumTlsVersion is TLS1_0"),
    (strict, "api.bicep", "scmMinTlsVersion: '1.2'", "scmMinTlsVersion: '1.1'", "scmMinTlsVersion is 1.1"),
    (strict, "openai.bicep", "disableLocalAuth: true", "disableLocalAuth: false", "disableLocalAuth is False"),
    (
        strict,
        "roles.bicep",
        "vaults@2024-11-01' existing",
        "vaults@2024-11-01'",
        "Microsoft.KeyVault/vaults is not reviewed",
    ),
    (roles, "roles.bicep", "ba92f5b4-2d11-453d-a403-e96b0029c9fe", "b24988ac-6180-42a0-ab88-20f7382dd24c", "b24988ac"),
    (roles, "roles.bicep", "  scope: vault\n", "", "the whole group"),
    (roles, "openai-role.bicep", "principalId: servicePrincipalId", "principalId: accountName", "accountName"),
    (containers_and_queues, "storage.bicep", "'idempotency', ", "'idempotent', ", "idempotency is missing"),
    (
        containers_and_queues,
        "storage.bicep",
        "['work', 'work-buried', 'work-poison']",
        "['work']",
        "work-poison is missing",
    ),
    (containers_and_queues, "storage.bicep", "for container in containers", "for container in []", "not created"),
    (lifecycle, "storage.bicep", "['streams/']", "['threads/']", "threads/"),
    (lifecycle, "storage.bicep", "daysAfterModificationGreaterThan: 7", "daysAfterModificationGreaterThan: 1", ": 1}"),
    (parameter_file, "main.parameters.json", '"planSku"', '"planSize"', "no parameter planSize"),
    (parameter_file, "main.parameters.json", '"firstKey"', '"first"', "lacks firstKey"),
    (
        queries,
        "queries.json",
        "'assistants.run.queued'",
        "'assistants.run.waiting'",
        "no metric assistants.run.waiting",
    ),
    (queries, "queries.json", "['assistants.work.outcome']", "['outcome']", "no attribute outcome"),
    (queries, "queries.json", '"severity": 1,', "", "alert poison is not whole"),
    (no_model_in_silence, "main.bicep", "  : fail('", "  : concat('", "embeddingModel takes"),
    (
        no_model_in_silence,
        "main.bicep",
        "{ EMBEDDING_MODEL: embeddingModel }",
        "{ A: embeddingModelName }",
        "settings takes",
    ),
    (
        autoscale_ends,
        "api.bicep",
        "if (maxInstances > 0)",
        "if (maxInstances > instances)",
        "is made if maxInstances > i",
    ),
    (autoscale_ends, "api.bicep", "enabled: maxInstances > instances", "enabled: true", "on if true"),
    (session_pool, "code-interpreter.bicep", "'EgressDisabled'", "'EgressEnabled'", "EgressEnabled"),
    (session_pool, "code-interpreter.bicep", "'PythonLTS'", "'CustomContainer'", "CustomContainer"),
    (session_pool, "main.bicep", "name: 'code${token}'", "name: 'code-${token}'", "the pool is named"),
    (session_pool, "main.bicep", "codeSessions int = 0", "codeSessions int = 100", "sessions: (0, 100, 600)"),
    (session_pool, "main.bicep", "param codeCooldown int = 1500", "param codeCooldown int = 600", "(300, 600, 3600)"),
    (interpreters_fit, "worker-container.bicep", "MEMORY_MB: '256'", "MEMORY_MB: '2048'", "4096 MiB of 1 GiB"),
]


@pytest.mark.parametrize(
    ("rule", "file", "there", "planted", "said"), PLANTED, ids=[f"{each[0].__name__}-{each[4]}" for each in PLANTED]
)
def test_a_planted_fault_is_found(rule: Rule, file: str, there: str, planted: str, said: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "bicep")
    whole = (folder / file).read_text()
    assert there in whole, "there is nothing to plant the fault in"
    (folder / file).write_text(whole.replace(there, planted, 1))
    assert [fault for fault in rule(read_all(folder)) if said in fault]


def test_every_rule_was_tried() -> None:
    assert {each[0] for each in PLANTED} == set(RULES)
