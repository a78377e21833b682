// The service's role on an Azure OpenAI account: of this deployment, or one that was there before, in its own group.

@description('Object id of the service\'s identity.')
param servicePrincipalId string

@description('Name of the account.')
param accountName string

resource account 'Microsoft.CognitiveServices/accounts@2025-06-01' existing = {
  name: accountName
}

// Cognitive Services OpenAI User: chat completions and responses. Nothing about deployments or keys.
resource mayCallModels 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(account.id, servicePrincipalId, '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd')
  scope: account
  properties: {
    principalId: servicePrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '5e0bd9bd-7b93-4f28-af87-19fc36ad61bd')
  }
}

@description('Address of the account.')
output endpoint string = account.properties.endpoint
