// Assistants Service on Azure: the API on App Service, the worker on Azure Functions or Container Apps, one storage
// account for everything, one identity for every call, and no secret in any setting. docs/operations.md tells how to
// deploy and run it.
targetScope = 'subscription'

@description('Name of the environment, as given to `azd env new`. It is part of all resource names.')
@minLength(1)
@maxLength(32)
param environmentName string

@description('Region of all resources.')
param location string

@description('Object id of the person or pipeline that deploys: may read and write data and secrets, for backups, poison and keys. Empty: only the service may.')
param principalId string = ''

@description('API key of the project `default`, kept in the vault. azd makes one of 15 characters at the first deployment, which is lengthened below, and finds it in the vault at each further one.')
@secure()
param firstKey string

@description('Name of the vault, as azd remembers it from an earlier deployment. Empty: this is the first deployment.')
param knownVault string = ''

@description('122 random bits each, for the first key.')
@secure()
param firstKeySeed string = newGuid()

@description('As firstKeySeed.')
@secure()
param firstKeySeed2 string = newGuid()

@description('Where the worker runs. true: Azure Functions, from this source. false: Container Apps, from `workerImage`.')
param functionsWorker bool = true

@description('Container image of the worker, such as ghcr.io/OWNER/assistants-service:0.1.0. Needed if functionsWorker is false. One in an Azure registry needs the role AcrPull for the identity there.')
param workerImage string = ''

@description('Size of the App Service plan of the API: B1 to try it out, P0v3 or larger in production.')
param planSku string = 'B1'

@description('Instances of the API.')
@minValue(1)
@maxValue(30)
param apiInstances int = 1

@description('Maximum number of instances of the API. More than apiInstances: autoscale is on, which needs a plan of the Standard or Premium tier. Equal to apiInstances: autoscale is off. 0: autoscale is left as it is (off at first).')
@minValue(0)
@maxValue(30)
param apiMaxInstances int = 0

@description('Maximum number of instances of the worker. Each works on up to 1,000 runs in a container, or on as many as host.json allows on Functions, where the minimum of this parameter is 40.')
@minValue(1)
@maxValue(1000)
param workerInstances int = 40

@description('Replication of the storage account. Standard_ZRS survives the loss of a datacenter, where the region has zones.')
@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS', 'Standard_RAGRS', 'Standard_RAGZRS'])
param storageSku string = 'Standard_LRS'

@description('Name of a model, such as gpt-5.4-mini, to deploy on a new Azure OpenAI account under this name. Empty: no new account.')
param modelName string = ''

@description('Version of that model, such as 2026-03-17.')
param modelVersion string = ''

@description('Kind of that deployment.')
@allowed(['Standard', 'GlobalStandard', 'DataZoneStandard'])
param modelSku string = 'GlobalStandard'

@description('Thousands of tokens a minute of that deployment.')
@minValue(1)
param modelCapacity int = 50

@description('Name of an embedding model, such as text-embedding-3-small, to deploy beside modelName: vector stores are searched by it. Empty: by the built-in one. It must not change once there are vector stores.')
param embeddingModelName string = ''

@description('Version of that embedding model.')
param embeddingModelVersion string = '1'

@description('Thousands of tokens a minute of its deployment.')
@minValue(1)
param embeddingModelCapacity int = 120

@description('Resource id of an existing Azure OpenAI account. Takes precedence over modelName.')
param existingOpenAiId string = ''

@description('Maximum number of sessions at once in which code_interpreter executes Python, in a session pool of Container Apps: a thread has one. Sessions are billed by the hour. 0: no pool.')
@minValue(0)
@maxValue(600)
param codeSessions int = 0

@description('Seconds without a call after which the pool ends a session. The worker ends it after 1,200, if it is still there.')
@minValue(300)
@maxValue(3600)
param codeCooldown int = 1500

@description('Module of actions for the worker, such as actions.weather. On Functions it is deployed with the source.')
param actions string = ''

@description('Settings whose values are secrets in the vault, comma-separated, such as OPENAI_API_KEY,PROVIDERS. The secret of OPENAI_API_KEY is OPENAI-API-KEY. API_KEYS is always one.')
param secretSettings string = ''

@description('Further settings of the service by name, such as {"RUN_EXPIRES_AFTER": "900"}: see README.md. No secrets.')
param extraSettings object = {}

@description('true: storage, vault and Azure OpenAI can be reached only through private endpoints in a virtual network. The API stays public.')
param privateNetwork bool = false

@description('With privateNetwork: public IPv4 addresses or ranges, comma-separated, that may still reach storage, vault and Azure OpenAI, such as 203.0.113.7, the address from which you deploy.')
param allowedAddresses string = ''

@description('Address that alerts are mailed to. Empty: alerts show in the portal only.')
param alertEmail string = ''

@description('Days for which logs and telemetry are kept.')
@minValue(30)
@maxValue(730)
param logDays int = 30

var token = toLower(uniqueString(subscription().id, environmentName, location))
var tags = { 'azd-env-name': environmentName }
var secretNames = union(['API_KEYS'], empty(secretSettings) ? [] : split(replace(secretSettings, ' ', ''), ','))
var addresses = empty(allowedAddresses) ? [] : split(replace(allowedAddresses, ' ', ''), ',')
var withModels = !empty(modelName) || !empty(existingOpenAiId)
// Without an account to have it, the name would be left out in silence, and vector stores made with the built-in model.
var embeddingModel = empty(embeddingModelName) || withModels
  ? embeddingModelName
  : fail('EMBEDDING_MODEL_NAME needs an Azure OpenAI account: set MODEL_NAME and MODEL_VERSION for a new one, or EXISTING_OPENAI_ID for yours, with a deployment of that name; or unset it, and the built-in embeddings are used.')

resource group 'Microsoft.Resources/resourceGroups@2024-11-01' = {
  name: 'rg-${environmentName}'
  location: location
  tags: tags
}

module identity 'br/public:avm/res/managed-identity/user-assigned-identity:0.6.0' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-${token}'
    location: location
    tags: tags
    enableTelemetry: false
  }
}

module monitoring 'monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    name: token
    location: location
    tags: tags
    days: logDays
  }
}

module network 'network.bicep' = if (privateNetwork) {
  name: 'network'
  scope: group
  params: {
    name: token
    location: location
    tags: tags
  }
}

module storage 'storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    name: 'st${token}'
    location: location
    tags: tags
    sku: storageSku
    allowedAddresses: addresses
    workspaceId: monitoring.outputs.workspaceId
    endpointsSubnetId: privateNetwork ? network!.outputs.endpointsSubnetId : ''
    zoneIds: privateNetwork ? network!.outputs.zoneIds : {}
  }
}

module vault 'vault.bicep' = {
  name: 'vault'
  scope: group
  params: {
    name: 'kv-${token}'
    location: location
    tags: tags
    // 256 random bits at least: those of azd have 83. A key that is in the vault already stays as it is.
    firstKey: empty(knownVault) ? '${firstKey}${replace(firstKeySeed, '-', '')}${replace(firstKeySeed2, '-', '')}' : firstKey
    allowedAddresses: addresses
    workspaceId: monitoring.outputs.workspaceId
    endpointsSubnetId: privateNetwork ? network!.outputs.endpointsSubnetId : ''
    zoneIds: privateNetwork ? network!.outputs.zoneIds : {}
  }
}

module openAi 'openai.bicep' = if (!empty(modelName) && empty(existingOpenAiId)) {
  name: 'openai'
  scope: group
  params: {
    name: 'oai-${token}'
    location: location
    tags: tags
    modelName: modelName
    modelVersion: modelVersion
    sku: modelSku
    capacity: modelCapacity
    embeddingModelName: embeddingModel
    embeddingModelVersion: embeddingModelVersion
    embeddingModelCapacity: embeddingModelCapacity
    allowedAddresses: addresses
    workspaceId: monitoring.outputs.workspaceId
    endpointsSubnetId: privateNetwork ? network!.outputs.endpointsSubnetId : ''
    zoneIds: privateNetwork ? network!.outputs.zoneIds : {}
  }
}

module openAiEndpoint 'openai-endpoint.bicep' = if (privateNetwork && !empty(existingOpenAiId)) {
  name: 'openai-endpoint'
  scope: group
  params: {
    name: token
    location: location
    tags: tags
    accountId: existingOpenAiId
    endpointsSubnetId: privateNetwork ? network!.outputs.endpointsSubnetId : ''
    zoneIds: privateNetwork ? network!.outputs.zoneIds : {}
  }
}

module roles 'roles.bicep' = {
  name: 'roles'
  scope: group
  params: {
    servicePrincipalId: identity.outputs.principalId
    personId: principalId
    storageName: storage.outputs.name
    vaultName: vault.outputs.name
  }
}

module openAiRole 'openai-role.bicep' = if (withModels) {
  name: 'openai-role-${token}'
  scope: resourceGroup(
    empty(existingOpenAiId) ? subscription().subscriptionId : split(existingOpenAiId, '/')[2],
    empty(existingOpenAiId) ? 'rg-${environmentName}' : split(existingOpenAiId, '/')[4]
  )
  params: {
    servicePrincipalId: identity.outputs.principalId
    accountName: empty(existingOpenAiId) ? openAi!.outputs.name : last(split(existingOpenAiId, '/'))!
  }
}

module codeInterpreter 'code-interpreter.bicep' = if (codeSessions > 0) {
  name: 'code-interpreter'
  scope: group
  params: {
    name: 'code${token}'
    location: location
    tags: tags
    servicePrincipalId: identity.outputs.principalId
    sessions: codeSessions
    cooldown: codeCooldown
  }
}

// What API and worker are told alike. The connection string of Application Insights names a place to write to; it is no
// secret.
var settings = union(
  {
    STORAGE: storage.outputs.blobUrl
    AZURE_CLIENT_ID: identity.outputs.clientId
    APPLICATIONINSIGHTS_CONNECTION_STRING: monitoring.outputs.connectionString
    LOG_FORMAT: 'json'
    OFFLINE_MODEL: 'off' // what it repeats would be taken for a model's answers
  },
  withModels ? { AZURE_OPENAI_ENDPOINT: openAiRole!.outputs.endpoint } : {},
  empty(embeddingModel) ? {} : { EMBEDDING_MODEL: embeddingModel },
  extraSettings
)

// What is in sessions takes nothing of a worker's memory, so it may keep more of them than of its own interpreters.
var sessionSettings = codeSessions > 0
  ? {
      CODE_INTERPRETER: 'azure'
      CODE_INTERPRETER_POOL: codeInterpreter!.outputs.endpoint
      CODE_INTERPRETER_PROCESSES: '32'
    }
  : {}

var workerSettings = union(sessionSettings, settings, empty(actions) ? {} : { ACTIONS: actions })

module api 'api.bicep' = {
  name: 'api'
  scope: group
  params: {
    name: 'app-${token}'
    location: location
    tags: tags
    identityId: identity.outputs.resourceId
    planSku: planSku
    instances: apiInstances
    maxInstances: apiMaxInstances
    settings: settings
    secretNames: secretNames
    vaultName: vault.outputs.name
    workspaceId: monitoring.outputs.workspaceId
    subnetId: privateNetwork ? network!.outputs.apiSubnetId : ''
  }
  dependsOn: [roles, openAiRole]
}

module functions 'worker-functions.bicep' = if (functionsWorker) {
  name: 'worker-functions'
  scope: group
  params: {
    name: 'func-${token}'
    hostStorageName: 'sth${token}'
    location: location
    tags: tags
    identityId: identity.outputs.resourceId
    identityClientId: identity.outputs.clientId
    servicePrincipalId: identity.outputs.principalId
    instances: workerInstances
    queueUrl: storage.outputs.queueUrl
    settings: workerSettings
    secretNames: secretNames
    vaultName: vault.outputs.name
    workspaceId: monitoring.outputs.workspaceId
    subnetId: privateNetwork ? network!.outputs.workerSubnetId : ''
    endpointsSubnetId: privateNetwork ? network!.outputs.endpointsSubnetId : ''
    zoneIds: privateNetwork ? network!.outputs.zoneIds : {}
  }
  dependsOn: [roles, openAiRole]
}

module container 'worker-container.bicep' = if (!functionsWorker) {
  name: 'worker-container'
  scope: group
  params: {
    name: 'ca-${token}'
    location: location
    tags: tags
    identityId: identity.outputs.resourceId
    image: workerImage
    instances: workerInstances
    storageName: storage.outputs.name
    settings: workerSettings
    secretNames: secretNames
    vaultUri: vault.outputs.uri
    workspaceId: monitoring.outputs.workspaceId
    subnetId: privateNetwork ? network!.outputs.workerSubnetId : ''
  }
  dependsOn: [roles, openAiRole]
}

module alerts 'alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    name: token
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
    siteId: api.outputs.siteId
    email: alertEmail
  }
}

@description('Resource group of everything.')
output AZURE_RESOURCE_GROUP string = group.name

@description('Address of the API, for the SDKs: their base_url.')
output OPENAI_BASE_URL string = '${api.outputs.url}/v1'

@description('STORAGE, for `assistants keys` and other commands on your own machine.')
output STORAGE string = storage.outputs.blobUrl

@description('Name of the storage account.')
output AZURE_STORAGE_ACCOUNT string = storage.outputs.name

@description('Name of the vault. azd looks for the first key there.')
output AZURE_KEY_VAULT_NAME string = vault.outputs.name
