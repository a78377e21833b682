from assistants_service.command import main

main()
